"""The client hands on the trace of its caller, where there is one."""

from __future__ import annotations

import subprocess
import sys

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

from session_client.call import Call
from session_contracts import CREATE_SESSION, CreateSessionPayload, CreateSessionRequest


async def headers() -> dict[str, object]:
    request = CreateSessionRequest(user_id="ada@example.com", payload=CreateSessionPayload())
    return dict(Call(CREATE_SESSION, request, 1.0).message("replies").headers)


async def test_a_request_belongs_to_the_current_span() -> None:
    tracer = TracerProvider(shutdown_on_exit=False).get_tracer("test")
    with tracer.start_as_current_span("page") as span:
        sent = await headers()
    context = span.get_span_context()
    assert str(sent["traceparent"]).startswith(f"00-{context.trace_id:032x}-{context.span_id:016x}-0")
    assert trace.get_current_span() is trace.INVALID_SPAN


async def test_without_a_span_a_request_says_nothing_of_traces() -> None:
    assert (await headers()).keys() == {"x-request-id"}


@pytest.mark.parametrize("hidden", [True, False], ids=["not installed", "not used"])
def test_the_client_neither_needs_nor_loads_opentelemetry(hidden: bool) -> None:
    hide = "sys.modules['opentelemetry'] = None; " if hidden else ""
    code = (
        f"import sys; {hide}from session_client.tracing import trace_headers; "
        "assert trace_headers() == {}; "
        "assert not [name for name, module in sys.modules.items() if 'opentelemetry' in name and module]"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
