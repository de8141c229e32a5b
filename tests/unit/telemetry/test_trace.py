"""W3C trace context: what is taken for one, what is ignored, and what is sent on."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from session_worker.messages.message import Message, Properties
from session_worker.telemetry.trace import MAX_STATE, NO_TRACE, Trace, TraceContext, begin, current_trace
from tests.support.parts import delivery

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
GOOD = f"00-{TRACE}-{SPAN}-01"


def headers_after(context: TraceContext, headers: dict[str, Any] | None) -> dict[str, Any]:
    message = Message("queue", b"", Properties(headers=headers))
    context.put(message)
    return dict(message.properties.headers or {})


@pytest.mark.parametrize(
    ("traceparent", "flags"),
    [
        (GOOD, 1),
        (f"00-{TRACE}-{SPAN}-00", 0),
        (f"00-{TRACE}-{SPAN}-02", 2),
        (f"00-{TRACE}-{SPAN}-ff", 3),
        (f"cc-{TRACE}-{SPAN}-01-what-will-be-known-later", 1),
    ],
)
def test_a_traceparent_is_understood(traceparent: str, flags: int) -> None:
    context = TraceContext.read({"traceparent": traceparent, "tracestate": "a=1,b=2"})
    assert context == TraceContext(TRACE, SPAN, flags, "a=1,b=2")
    assert context.traceparent == f"00-{TRACE}-{SPAN}-0{flags}"


@pytest.mark.parametrize(
    "traceparent",
    [
        *(None, 7, b"bytes", [GOOD], {}, "", "-", GOOD[:-1], GOOD + "0", f" {GOOD}", GOOD + "\n"),
        *(GOOD.upper(), GOOD.replace("-", "_"), f"ff-{TRACE}-{SPAN}-01", f"{GOOD}-more"),
        *(f"00-{'0' * 32}-{SPAN}-01", f"00-{TRACE}-{'0' * 16}-01", f"00-{TRACE}-{SPAN}-0g"),
        *("cc" + GOOD[2:] + "-" + "x" * 300, GOOD.replace("4", "\N{ARABIC-INDIC DIGIT FOUR}")),
    ],
)
def test_anything_else_is_no_trace(traceparent: object) -> None:
    headers = {"traceparent": traceparent, "tracestate": "a=1"}
    assert TraceContext.read(headers) is None
    assert begin(delivery(headers=headers)) is NO_TRACE


@given(st.text() | st.from_regex(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}.{0,5}", fullmatch=True))
def test_no_text_does_more_than_be_understood_or_ignored(text: str) -> None:
    context = TraceContext.parse(text)
    assert context is None or TraceContext.parse(context.traceparent) == context


@pytest.mark.parametrize(
    "state", ["", 7, None, b"a=1", "a=1\n", "a=\N{SNOWMAN}", "a=" + "1" * MAX_STATE, "a=\0"]
)
def test_a_tracestate_that_nobody_can_send_on_is_left_out(state: object) -> None:
    assert TraceContext.read({"traceparent": GOOD, "tracestate": state}) == TraceContext(TRACE, SPAN, 1)


def test_a_message_carries_a_context_beside_its_other_headers() -> None:
    context = TraceContext(TRACE, SPAN, 1, "a=1")
    assert headers_after(context, {"x-other": 1}) == {
        "x-other": 1,
        "traceparent": GOOD,
        "tracestate": "a=1",
    }
    assert headers_after(context, None) == {"traceparent": GOOD, "tracestate": "a=1"}


def test_a_tracestate_of_another_trace_does_not_stay() -> None:
    left = headers_after(TraceContext(TRACE, SPAN, 1), {"traceparent": "?", "tracestate": "other=1"})
    assert left == {"traceparent": GOOD}


def test_without_spans_an_answer_gets_the_context_and_a_copy_keeps_what_it_has() -> None:
    trace = Trace(TraceContext(TRACE, SPAN, 1))
    answer = Message("replies", b"", Properties())
    copy = Message("retry", b"", Properties(headers={"traceparent": "as it came"}))
    for message in (answer, copy):
        with trace.sending(message):
            pass
    assert answer.properties.headers == {"traceparent": GOOD}
    assert copy.properties.headers == {"traceparent": "as it came"}
    with NO_TRACE.sending(message := Message("replies", b"", Properties())):
        pass
    assert message.properties.headers is None


async def test_a_trace_is_followed_in_its_deliverys_task_alone() -> None:
    async def serve() -> str | None:
        begin(delivery(headers={"traceparent": GOOD}))
        return current_trace.get().traceparent

    assert await asyncio.create_task(serve()) == GOOD
    assert current_trace.get() is NO_TRACE
