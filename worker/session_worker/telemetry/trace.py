"""The trace of a delivery, by the W3C's trace context: read from its headers, kept, and sent on.

Nothing here makes spans; ``spans.py`` does, if traces are on. A trace that others follow must not end
here although traces are off, and the lines of the log name it.
"""

from __future__ import annotations

import re
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from session_worker.messages.headers import TRACEPARENT, TRACESTATE
from session_worker.messages.immutable import immutable

if TYPE_CHECKING:
    from collections.abc import Mapping
    from uuid import UUID

    from session_worker.messages.delivery import Delivery
    from session_worker.messages.message import Message

SAMPLED, RANDOM = 1, 2
"""Flags: spans are made; the trace's id is random as a whole."""
MAX_STATE = 512
"""Characters of ``tracestate`` that are sent on; a longer one is left out, as the W3C allows."""
_TRACEPARENT = re.compile(
    r"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?"
)
_STATE = re.compile(r"[\x20-\x7e]*")


@immutable
class TraceContext:
    """A place in a trace: under the span ``span_id``. Ids are hexadecimal. Of the flags, ``SAMPLED`` and
    ``RANDOM`` are kept."""

    trace_id: str
    span_id: str
    flags: int
    state: str = ""

    @classmethod
    def read(cls, headers: Mapping[str, Any]) -> TraceContext | None:
        """Read the headers; None if they have no trace context, or one that is malformed."""
        if TRACEPARENT not in headers:
            return None
        found = cls.parse(headers[TRACEPARENT])
        state = headers.get(TRACESTATE)
        if found is None or not isinstance(state, str) or not state:
            return found
        fits = len(state) <= MAX_STATE and _STATE.fullmatch(state)
        return replace(found, state=state) if fits else found

    @classmethod
    def parse(cls, traceparent: object) -> TraceContext | None:
        """Read a ``traceparent`` of this version of the standard or of a later one; None if it is not one."""
        if not isinstance(traceparent, str) or not 55 <= len(traceparent) <= 255:
            return None
        match = _TRACEPARENT.fullmatch(traceparent)
        if match is None or (match[1] == "00" and match[5]):
            return None
        return cls(match[2], match[3], int(match[4], 16) & (SAMPLED | RANDOM))

    @property
    def traceparent(self) -> str:
        return f"00-{self.trace_id}-{self.span_id}-0{self.flags}"

    def put(self, message: Message) -> None:
        """Add it to the message's headers."""
        own = {TRACEPARENT: self.traceparent}
        if self.state:
            own[TRACESTATE] = self.state
        properties = message.properties
        if properties.headers:
            own = {name: value for name, value in properties.headers.items() if name != TRACESTATE} | own
        properties.headers = own


class Trace:
    """What is done about a delivery's trace. In this class no spans are made: it is sent on unchanged."""

    __slots__ = ("context",)

    def __init__(self, context: TraceContext | None) -> None:
        self.context = context

    @property
    def traceparent(self) -> str | None:
        """What the ledger is to keep with the request if this is its first claim."""
        return None if self.context is None else self.context.traceparent

    def known(self, traceparent: str | None) -> None:
        """Take note of what the ledger keeps with the request."""

    def enter(self) -> None:
        """Make it OpenTelemetry's current one in this task, which runs the handler."""

    def about(self, request_id: UUID | None, attempt: int, operation: str) -> None:
        """Take note of which request this is about, as far as is known; ``attempt`` may be 0."""

    def sending(self, message: Message) -> AbstractContextManager[None]:
        """Return what to enter while the message is published."""
        if self.context is not None and TRACEPARENT not in (message.properties.headers or ()):
            self.context.put(message)
        return _NOTHING

    def settled(self, method: str, outcome: str) -> None:
        """Take note that the delivery was settled by ``method`` (ack, nack) with the outcome of that name."""

    def end(self) -> None:
        """Take note that nothing more is done about the delivery."""


_NOTHING = nullcontext()
NO_TRACE = Trace(None)
current_trace: ContextVar[Trace] = ContextVar("trace", default=NO_TRACE)
"""The trace of the delivery that this task is about."""


def begin(delivery: Delivery) -> Trace:
    """Follow the delivery's trace, if it has one, in this task."""
    context = TraceContext.read(delivery.headers)
    if context is None:
        return NO_TRACE
    trace = Trace(context)
    current_trace.set(trace)
    return trace
