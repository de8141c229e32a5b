"""The spans of deliveries: the SDK's own, started for the traces that its sampler wants and for no others.

Starting a span that nobody wants would cost ten times what asking the sampler does. So the sampler is asked
first. A trace that it drops is passed on if it came with the message; one that would begin here has no ids.
"""

from __future__ import annotations

import re
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from time import time_ns
from typing import TYPE_CHECKING

from opentelemetry import context as otel_context
from opentelemetry import trace as otel
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import Decision
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, StatusCode, TraceFlags, TraceState

from session_worker.messages.headers import TRACEPARENT
from session_worker.messages.identifiers import new_span_id, new_trace_id, storable
from session_worker.telemetry import events
from session_worker.telemetry.trace import RANDOM, SAMPLED, Trace, TraceContext, current_trace

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from contextlib import AbstractContextManager
    from uuid import UUID

    from opentelemetry.sdk.trace import TracerProvider

    from session_contracts.amqp import Names
    from session_worker.messages.delivery import Delivery
    from session_worker.messages.message import Message

SCOPE = "session-worker"
"""The name of the instrumentation."""

_sampled_id: ContextVar[int] = ContextVar("sampled_id", default=0)


class TraceIds(RandomIdGenerator):
    """The SDK's random ids, except that a trace keeps the id that the sampler was asked about."""

    def generate_trace_id(self) -> int:
        return _sampled_id.get() or super().generate_trace_id()


class Spans:
    """Starts the spans of one worker. The ``provider`` must have ``TraceIds``; ``server`` is what attributes
    say of the broker."""

    def __init__(self, provider: TracerProvider, names: Names, server: Mapping[str, str | int]) -> None:
        self._sampler = provider.sampler
        self._tracer = provider.get_tracer(SCOPE)
        self._names = names
        self._server = server
        self._about = lru_cache(maxsize=1024)(self._name_and_attributes)

    def process(self, delivery: Delivery, parent: TraceContext | None, start: int) -> otel.Span | None:
        """The span of what is done about the delivery, if the sampler wants one. ``start``: nanoseconds since
        1970."""
        name, attributes = self._about("process", delivery.queue)
        if parent is None:
            parents, trace_id = _NO_PARENT, int(new_trace_id(), 16)
        else:
            parents, trace_id = _PARENTS[parent.flags & SAMPLED], int(parent.trace_id, 16)
        sampling = self._sampler.should_sample(parents, trace_id, name, SpanKind.CONSUMER, attributes)
        if sampling.decision is not Decision.RECORD_AND_SAMPLE:
            return None
        token = _sampled_id.set(trace_id)
        span = self._tracer.start_span(
            name,
            _NO_PARENT if parent is None else _within(span_context(parent, remote=True)),
            SpanKind.CONSUMER,
            attributes
            | _ids(delivery.message_id, delivery.correlation_id)
            | {"messaging.rabbitmq.message.delivery_tag": delivery.tag},
            start_time=start,
        )
        _sampled_id.reset(token)
        return span

    def send(self, message: Message, parent: otel.Span) -> otel.Span:
        name, attributes = self._about("send", message.queue)
        return self._tracer.start_span(name, _within(parent), SpanKind.PRODUCER, attributes)

    def _name_and_attributes(self, operation: str, queue: str) -> tuple[str, dict[str, str | int]]:
        # A requester's own queue may live for one answer: names made of such would be without number.
        return f"{operation} {queue}" if self._names.is_ours(queue) else operation, {
            "messaging.system": "rabbitmq",
            "messaging.operation.type": operation,
            "messaging.operation.name": operation,
            "messaging.destination.name": storable(queue),
            **self._server,
        }


class SpanTrace(Trace):
    """The trace of one delivery: the span of what is done about it, and one for each message that is sent.

    Its parent is what its message says; otherwise what the ledger keeps with the request, so that every
    attempt, wherever it is made, is part of one trace. A duplicate of another trace links to that one.
    """

    __slots__ = ("_delivery", "_parent", "_spans", "_start", "span")

    def __init__(self, spans: Spans, delivery: Delivery) -> None:
        self._start = time_ns()
        self._spans = spans
        self._delivery = delivery
        self._begin(TraceContext.read(delivery.headers))

    def _begin(self, parent: TraceContext | None) -> None:
        self._parent = parent
        self.span = self._spans.process(self._delivery, parent, self._start)
        if self.span is not None:
            self.context = _trace_context(self.span, "" if parent is None else parent.state)
        else:
            self.context = None if parent is None else _dropped(parent)

    @property
    def traceparent(self) -> str | None:
        context = self._parent or self.context
        return None if context is None else context.traceparent

    def known(self, traceparent: str | None) -> None:
        if traceparent is None or traceparent == self.traceparent:
            return
        kept = TraceContext.parse(traceparent)
        if kept is None or (self.context is not None and kept.trace_id == self.context.trace_id):
            return
        if self._parent is None:
            # The span that was started is given up: one that never ends is never exported.
            self._begin(kept)
        elif self.span is not None:
            self.span.add_link(span_context(kept, remote=True))

    def enter(self) -> None:
        if self.span is None:
            otel_context.attach(_UNWANTED)
        else:
            otel_context.attach(otel.set_span_in_context(self.span))
            self.span.add_event("attempt began")

    def sending(self, message: Message) -> AbstractContextManager[None]:
        return super().sending(message) if self.span is None else self._send(message, self.span)

    @contextmanager
    def _send(self, message: Message, parent: otel.Span) -> Iterator[None]:
        """The message carries the context of its span, unless it has one. A copy of a request keeps the one
        that it came with: then the next attempt has the same parent as this one."""
        span = self._spans.send(message, parent)
        properties = message.properties
        if TRACEPARENT not in (properties.headers or ()):
            state = "" if self.context is None else self.context.state
            _trace_context(span, state).put(message)
        try:
            yield
        except BaseException as error:
            _fail(span, type(error).__name__, str(error))
            raise
        finally:
            span.set_attributes(_ids(properties.message_id, properties.correlation_id))
            span.end()

    def about(self, request_id: UUID | None, attempt: int, operation: str) -> None:
        if self.span is None:
            return
        self.span.set_attribute("session_worker.operation", operation)
        if request_id is not None:
            self.span.set_attribute("session_worker.request_id", str(request_id))
        if attempt:
            self.span.set_attribute("session_worker.attempt", attempt)

    def settled(self, method: str, outcome: str) -> None:
        if self.span is not None:
            self.span.add_event(method)
            self.span.set_attribute("session_worker.outcome", _snake_case(outcome))

    def end(self) -> None:
        if self.span is not None:
            self.span.end()


def hear(event: events.Event) -> None:
    """Have the span of the delivery that ``event`` is about say how its request fares."""
    trace = current_trace.get()
    if not isinstance(trace, SpanTrace) or (span := trace.span) is None:
        return
    match event:
        case events.AttemptEnded():
            span.add_event("attempt ended")
        case events.RequestTakenOver():
            span.add_event("taken over")
        case events.AttemptFailed():
            _fail(span, event.error_code, event.error)
        case events.RequestFinished(outcome="failed" | "refused"):
            if event.error_code is not None:
                _fail(span, event.error_code, event.error or "")
        case events.RequestHandedBack():
            trace.about(event.request_id, event.attempt, event.operation)
        case events.DeliveryLeft():
            trace.about(event.request_id, event.attempt, event.operation)
            _fail(span, "LinkLostError", event.reason)
        case events.DeliveryFailed() | events.OutcomeNotRecorded():
            trace.about(event.request_id, event.attempt, event.operation)
            _fail(span, type(event.exc_info).__name__, str(event.exc_info))


LISTENERS: events.Listeners = dict.fromkeys(
    (
        events.AttemptEnded,
        events.AttemptFailed,
        events.RequestFinished,
        events.RequestHandedBack,
        events.RequestTakenOver,
        events.DeliveryLeft,
        events.DeliveryFailed,
        events.OutcomeNotRecorded,
    ),
    hear,
)


class _Unwanted(NonRecordingSpan):
    """The current span of every handler whose trace is dropped: one for all, since most never ask for it."""

    def __init__(self) -> None:
        super().__init__(otel.INVALID_SPAN_CONTEXT)

    def get_span_context(self) -> SpanContext:
        trace = current_trace.get()
        if trace.context is None:  # a handler that asks: what it starts is to be dropped too
            trace.context = TraceContext(new_trace_id(), new_span_id(), RANDOM)
        return span_context(trace.context)


def _dropped(parent: TraceContext) -> TraceContext:
    """What is sent on in place of a parent whose trace is dropped here: itself, if it was dropped before."""
    if not parent.flags & SAMPLED:
        return parent
    return TraceContext(parent.trace_id, new_span_id(), parent.flags & RANDOM, parent.state)


def span_context(context: TraceContext, *, remote: bool = False) -> SpanContext:
    return SpanContext(
        int(context.trace_id, 16),
        int(context.span_id, 16),
        remote,
        TraceFlags(context.flags),
        TraceState.from_header([context.state]) if context.state else None,
    )


def _trace_context(span: otel.Span, state: str) -> TraceContext:
    found = span.get_span_context()
    trace_id, span_id = otel.format_trace_id(found.trace_id), otel.format_span_id(found.span_id)
    return TraceContext(trace_id, span_id, int(found.trace_flags), state)


def _within(parent: otel.Span | SpanContext) -> otel_context.Context:
    span = NonRecordingSpan(parent) if isinstance(parent, SpanContext) else parent
    return otel.set_span_in_context(span, _NO_PARENT)


def _ids(message_id: str | None, conversation_id: str | None) -> dict[str, str]:
    ids = {"messaging.message.id": message_id, "messaging.message.conversation_id": conversation_id}
    return {name: storable(value) for name, value in ids.items() if value}


def _fail(span: otel.Span, kind: str, text: str) -> None:
    span.set_attribute("error.type", kind)
    span.set_status(StatusCode.ERROR, storable(text))


@lru_cache
def _snake_case(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()


_NO_PARENT = otel_context.Context()
_PARENTS = tuple(_within(SpanContext(1, 1, True, TraceFlags(flags))) for flags in (0, SAMPLED))
"""A delivery's parent as the sampler sees it: those of ``OTEL_TRACES_SAMPLER`` look at the flag alone."""
_UNWANTED = _within(_Unwanted())
