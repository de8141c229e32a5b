"""The spans of one delivery, and what they hear of its events."""

from __future__ import annotations

from time import time_ns
from typing import TYPE_CHECKING

from opentelemetry import context as otel_context
from opentelemetry import trace as otel
from opentelemetry.trace import INVALID_SPAN_CONTEXT, NonRecordingSpan, SpanContext

from session_worker.messages.headers import TRACEPARENT
from session_worker.messages.identifiers import new_span_id
from session_worker.telemetry.events import (
    AttemptEnded,
    AttemptFailed,
    DeliveryFailed,
    DeliveryLeft,
    OutcomeNotRecorded,
    RequestFinished,
    RequestHandedBack,
    RequestTakenOver,
)
from session_worker.telemetry.spans import context_of, encoded, event
from session_worker.telemetry.trace import SAMPLED, Trace, TraceContext, current_trace

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from types import TracebackType
    from uuid import UUID

    from session_worker.messages.delivery import Delivery
    from session_worker.messages.message import Message
    from session_worker.telemetry.events import Listeners
    from session_worker.telemetry.traces import Traces


class SpanTrace(Trace):
    """The spans of one delivery: what is done about it (``context``), and each message that is sent.

    Its parent is what its message says; else what the ledger keeps with the request, so that every attempt,
    wherever it is made, is part of one trace. A duplicate that came by another trace links to that one.
    """

    __slots__ = (
        "_attempt",
        "_delivery",
        "_error",
        "_events",
        "_kept",
        "_link",
        "_message",
        "_outcome",
        "_parent",
        "_request_id",
        "_sending_since",
        "_sent",
        "_span_id",
        "_start",
        "_traces",
    )
    context: TraceContext

    def __init__(self, traces: Traces, delivery: Delivery) -> None:
        self._start = time_ns()
        self._traces = traces
        self._delivery = delivery
        headers = delivery.headers
        self._parent = parent = TraceContext.read(headers) if TRACEPARENT in headers else None
        self._link: TraceContext | None = None
        self.context = context = traces.place(delivery.queue, parent)
        self._kept = (parent or context).traceparent
        self._events: list[bytes | int] = []
        self._sent = 0
        self._request_id: UUID | None = None
        self._attempt = 0
        self._outcome = ""
        self._error: tuple[str, str] | None = None

    @property
    def traceparent(self) -> str:
        return self._kept

    def known(self, traceparent: str | None) -> None:
        if traceparent == self._kept:
            return
        kept = TraceContext.parse(traceparent)
        if kept is None or kept.trace_id == self.context.trace_id:
            return
        if self._parent is None:
            self._parent = kept
            self.context = self._traces.place(self._delivery.queue, kept)
        else:
            self._link = kept

    def enter(self) -> None:
        otel_context.attach(_CURRENT)
        self.happened(_ATTEMPT_BEGAN)

    def settled(self, method: str, outcome: str) -> None:
        self.happened(_SETTLED[method])
        self._outcome = outcome

    def end(self) -> None:
        delivery, parent, context = self._delivery, self._parent, self.context
        if not context.flags & SAMPLED:
            return
        span = encoded(
            self._traces.processing(delivery.queue, self._attempt, self._outcome),
            context,
            context.span_id,
            None if parent is None else parent.span_id,
            self._start,
            time_ns(),
            delivery.message_id,
            delivery.correlation_id,
            self._error,
            delivery.tag,
            self._request_id,
            self._link,
            self._events,
            remote=parent is not None,
        )
        self._traces.put(span)

    # ---------------------------------------------------------------------- a message that is sent

    def sending(self, message: Message) -> AbstractContextManager[None]:
        """The message carries the context of its span, unless it has one. A copy of a request keeps the one
        that it came with: then the next attempt has the same parent as this one."""
        self._sending_since = time_ns()
        self._message = message
        self._sent = number = self._sent + 1
        # The process span's own id ends in 00.
        self._span_id = self.context.span_id[:14] + _TWO_DIGITS[number] if number < 256 else new_span_id()
        headers = message.properties.headers
        if not headers or TRACEPARENT not in headers:
            self.context.put(message, self._span_id)
        return self

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        context, message = self.context, self._message
        if not context.flags & SAMPLED:
            return
        properties = message.properties
        span = encoded(
            self._traces.sending(message.queue),
            context,
            self._span_id,
            context.span_id,
            self._sending_since,
            time_ns(),
            properties.message_id,
            properties.correlation_id,
            None if error is None else (type(error).__name__, str(error)),
        )
        self._traces.put(span)

    # ---------------------------------------------------------------- what is told while it lasts

    def happened(self, what: bytes) -> None:
        self._events += (what, time_ns())

    def about(self, request_id: UUID | None, attempt: int) -> None:
        if request_id is not None:
            self._request_id = request_id
        if attempt:
            self._attempt = attempt

    def failed(self, kind: str, text: str) -> None:
        self._error = (kind, text)


_TWO_DIGITS = tuple(f"{number:02x}" for number in range(256))
_ATTEMPT_BEGAN, _ATTEMPT_ENDED, _TAKEN_OVER = map(event, ("attempt began", "attempt ended", "taken over"))
_SETTLED = {method: event(method) for method in ("ack", "nack")}


class _Current(NonRecordingSpan):
    """The process span as the handler finds it: one that its own spans can be under. One for all: it says of
    each task where that is."""

    def __init__(self) -> None:
        super().__init__(INVALID_SPAN_CONTEXT)

    def get_span_context(self) -> SpanContext:
        context = current_trace.get().context
        return INVALID_SPAN_CONTEXT if context is None else context_of(context)

    def __repr__(self) -> str:
        return f"_Current({self.get_span_context()})"


_CURRENT = otel.set_span_in_context(_Current(), otel_context.Context())


# ------------------------------------------------------------------------ what a span hears of events


def _on_attempt_ended(_: AttemptEnded) -> None:
    current_trace.get().happened(_ATTEMPT_ENDED)


def _on_failure(event: AttemptFailed) -> None:
    current_trace.get().failed(event.error_code.value, event.error)


def _on_finished(event: RequestFinished) -> None:
    if event.error_code is not None and event.outcome in ("failed", "refused"):
        current_trace.get().failed(event.error_code.value, event.error or "")


def _on_handed_back(event: RequestHandedBack) -> None:
    current_trace.get().about(event.request_id, event.attempt)


def _on_taken_over(_: RequestTakenOver) -> None:
    current_trace.get().happened(_TAKEN_OVER)


def _on_left(event: DeliveryLeft) -> None:
    trace = current_trace.get()
    trace.about(event.request_id, event.attempt)
    trace.failed("LinkLostError", event.reason)


def _on_defect(event: DeliveryFailed | OutcomeNotRecorded) -> None:
    trace = current_trace.get()
    trace.about(event.request_id, event.attempt)
    trace.failed(type(event.exc_info).__name__, str(event.exc_info))


LISTENERS: Listeners = {
    AttemptEnded: _on_attempt_ended,
    AttemptFailed: _on_failure,
    RequestFinished: _on_finished,
    RequestHandedBack: _on_handed_back,
    RequestTakenOver: _on_taken_over,
    DeliveryLeft: _on_left,
    DeliveryFailed: _on_defect,
    OutcomeNotRecorded: _on_defect,
}
"""What a span is told by events: how its request fares."""
