"""A handler that makes a span of its own, and does what a request's metadata says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from opentelemetry import trace

from tests.support.handlers.scripted import scripted

if TYPE_CHECKING:
    from session_contracts import CreateSessionRequest
    from session_worker.operations.handler import Context

tracer = trace.get_tracer("handlers")


async def traced(request: CreateSessionRequest, context: Context) -> dict[str, Any] | None:
    with tracer.start_as_current_span("quota"):
        return await scripted(request, context)
