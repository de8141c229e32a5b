"""Spans for OpenTelemetry, by its conventions for messaging; needs the extra ``session-worker[otel]``.

A span is made when it has ended, from what is known then. While it lasts there is its context alone, in which
the handler makes spans of its own. A live span of the SDK's would take several times as long.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import threading
import time
from contextlib import AbstractContextManager, suppress
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from opentelemetry import context as otel_context
from opentelemetry import trace as otel
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_INSTANCE_ID, SERVICE_NAME, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import DEFAULT_ON, Decision
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind

from worker.identifiers import new_span_id, new_trace_id
from worker.outcome import subject
from worker.telemetry.events import (
    AttemptEnded,
    AttemptFailed,
    DeliveryFailed,
    DeliveryLeft,
    OutcomeNotRecorded,
    RequestFinished,
    RequestHandedBack,
    RequestTakenOver,
)
from worker.telemetry.outbox import Outbox
from worker.telemetry.spans import SCOPE, Envelope, Operation, Span, context_of, encoded, readable
from worker.telemetry.trace import RANDOM, SAMPLED, TRACEPARENT, Trace, TraceContext, current_trace

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType
    from uuid import UUID

    from contracts.amqp import Names
    from worker.delivery import Delivery
    from worker.outcome import Outcome
    from worker.publisher import Message
    from worker.settings import Settings
    from worker.telemetry.events import Listeners

ATTRIBUTES: Mapping[str, str] = {
    "messaging.system": "`rabbitmq`",
    "messaging.operation.type": "`process` or `send`",
    "messaging.operation.name": "`process` or `send`",
    "messaging.destination.name": "the queue",
    "messaging.message.id": "the property `message_id`",
    "messaging.message.conversation_id": "the property `correlation_id`",
    "messaging.rabbitmq.message.delivery_tag": "the broker's number of the delivery on its channel",
    "server.address": "the broker's host, if only one is named",
    "server.port": "its port",
    "session_worker.request_id": "the request's id",
    "session_worker.attempt": "as in the log",
    "session_worker.outcome": "`completed`, `replayed`, `retry_later`, `busy`, `declined`, `expired`, "
    "`refused`, `exhausted` or `interrupted`",
    "error.type": "an error code, or what an exception is called; only if it failed",
}
"""What a span's attributes mean."""

FLUSH_SECONDS = 3.0
"""What the collector has at the end to take what waits for it; part of the shutdown's deadline."""
QUIET_SECONDS = 60.0
"""Trouble with the collector is told once in such a time."""

_PROTOCOLS = ("OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL")
_NO_PARENT = otel_context.Context()


class Traces:
    """Makes the spans of one worker, and puts those of the traces that the provider's sampler wants into
    ``outbox``. What a handler makes by itself is the provider's."""

    def __init__(
        self, provider: TracerProvider, outbox: Outbox[Any], names: Names, server: Mapping[str, str | int]
    ) -> None:
        # Most have the default, and what it decides can be said without asking it.
        self._sampler = None if provider.sampler is DEFAULT_ON else provider.sampler
        self._provider = provider
        self._outbox = outbox
        self._names = names
        self._server = server
        self.put = outbox.put
        self.processing = lru_cache(maxsize=1024)(self._processing)
        self.sending = lru_cache(maxsize=1024)(self._sending)

    @property
    def listeners(self) -> Listeners:
        """What a span is told by events: how its request fares."""
        return {
            AttemptEnded: _on_attempt_ended,
            AttemptFailed: _on_failure,
            RequestFinished: _on_finished,
            RequestHandedBack: _on_handed_back,
            RequestTakenOver: _on_taken_over,
            DeliveryLeft: _on_left,
            DeliveryFailed: _on_defect,
            OutcomeNotRecorded: _on_defect,
        }

    def begin(self, delivery: Delivery) -> Trace:
        """Follow the delivery's trace in this task, or begin one."""
        trace = SpanTrace(self, delivery)
        current_trace.set(trace)
        return trace

    def place(self, queue: str, parent: TraceContext | None) -> TraceContext:
        """Where the process span of a delivery from ``queue`` belongs, and whether it is wanted."""
        trace_id = new_trace_id() if parent is None else parent.trace_id
        if self._sampler is None:
            flags, state = (SAMPLED | RANDOM, "") if parent is None else (parent.flags, parent.state)
            return TraceContext(trace_id, new_span_id(), flags, state)
        operation = self.processing(queue)
        within = _NO_PARENT
        if parent is not None:
            within = otel.set_span_in_context(NonRecordingSpan(context_of(parent, remote=True)), within)
        sampling = self._sampler.should_sample(
            within, int(trace_id, 16), operation.name, operation.kind, operation.attributes
        )
        state = sampling.trace_state.to_header() if sampling.trace_state else ""
        flags = RANDOM if parent is None else parent.flags & ~SAMPLED
        if sampling.decision is Decision.RECORD_AND_SAMPLE:
            flags |= SAMPLED
        return TraceContext(trace_id, new_span_id(), flags, state)

    async def close(self) -> None:
        """Have the collector take what waits, for ``FLUSH_SECONDS`` at the most."""
        loop = asyncio.get_running_loop()
        done = asyncio.Event()

        def flush() -> None:
            self._outbox.close()
            self._provider.shutdown()
            with suppress(RuntimeError):  # the loop is closed: it came too late
                loop.call_soon_threadsafe(done.set)

        # Not one of asyncio's threads: the loop waits for those when it ends.
        threading.Thread(target=flush, name="last spans", daemon=True).start()
        with suppress(TimeoutError):
            async with asyncio.timeout(FLUSH_SECONDS):
                await done.wait()

    def _processing(self, queue: str, attempt: int = 0, outcome: str = "") -> Operation:
        attributes = self._attributes("process", queue)
        if attempt:
            attributes["session_worker.attempt"] = attempt
        if outcome:  # RetryLater: retry_later
            attributes["session_worker.outcome"] = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", outcome).lower()
        return Operation(f"process {queue}", SpanKind.CONSUMER, attributes)

    def _sending(self, queue: str) -> Operation:
        # A requester's own queue may live for one answer: names made of such would be without number.
        ours = queue == self._names.replies or queue.startswith(self._names.work)
        return Operation(
            f"send {queue}" if ours else "send", SpanKind.PRODUCER, self._attributes("send", queue)
        )

    def _attributes(self, operation: str, queue: str) -> dict[str, str | int]:
        return {
            "messaging.system": "rabbitmq",
            "messaging.operation.type": operation,
            "messaging.operation.name": operation,
            "messaging.destination.name": queue,
            **self._server,
        }


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
        "_failure",
        "_kept",
        "_link",
        "_message",
        "_outcome",
        "_parent",
        "_request_id",
        "_sending_since",
        "_span_id",
        "_spans",
        "_start",
        "_traces",
    )
    context: TraceContext

    def __init__(self, traces: Traces, delivery: Delivery) -> None:
        self._start = time.time_ns()
        self._traces = traces
        self._delivery = delivery
        self._parent = TraceContext.read(delivery.headers) if TRACEPARENT in delivery.headers else None
        self._link: TraceContext | None = None
        self.context = traces.place(delivery.queue, self._parent)
        self._kept = (self._parent or self.context).traceparent
        self._events: list[tuple[int, str]] = []
        self._spans: list[Span] = []
        self._request_id: UUID | None = None
        self._attempt = 0
        self._outcome = ""
        self._failure = ""
        self._error: str | None = None

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
        otel_context.attach(otel.set_span_in_context(_Current(self.context)))
        self.happened("attempt began")

    def settled(self, method: str, outcome: Outcome) -> None:
        self.happened(method)
        self.about(*subject(outcome))
        self._outcome = type(outcome).__name__

    def end(self) -> None:
        if not self.context.sampled:
            return
        delivery, parent, context = self._delivery, self._parent, self.context
        facts: dict[str, str | int] = {_TAG: delivery.tag}
        if delivery.message_id:
            facts[_MESSAGE_ID] = delivery.message_id
        if delivery.correlation_id:
            facts[_CONVERSATION_ID] = delivery.correlation_id
        if self._request_id is not None:
            facts[_REQUEST_ID] = str(self._request_id)
        if self._error is not None:
            facts[_ERROR] = self._failure
        self._spans.append(
            Span(
                self._traces.processing(delivery.queue, self._attempt, self._outcome),
                context,
                context.span_id,
                None if parent is None else parent.span_id,
                self._start,
                time.time_ns(),
                facts,
                parent is not None,
                self._events,
                self._link,
                self._error,
            )
        )
        self._traces.put(self._spans)

    # ---------------------------------------------------------------------- a message that is sent

    def sending(self, message: Message) -> AbstractContextManager[None]:
        """The message carries the context of its span, unless it has one. A copy of a request keeps the one
        that it came with: then the next attempt has the same parent as this one."""
        self._sending_since = time.time_ns()
        self._message = message
        self._span_id = self._child_id()
        if TRACEPARENT not in (message.properties.headers or ()):
            self.context.put(message, self._span_id)
        return self

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        if not self.context.sampled:
            return
        properties = self._message.properties
        facts: dict[str, str | int] = {}
        if properties.message_id:
            facts[_MESSAGE_ID] = properties.message_id
        if properties.correlation_id:
            facts[_CONVERSATION_ID] = properties.correlation_id
        if error is not None:
            facts[_ERROR] = type(error).__name__
        self._spans.append(
            Span(
                self._traces.sending(self._message.queue),
                self.context,
                self._span_id,
                self.context.span_id,
                self._sending_since,
                time.time_ns(),
                facts,
                error=None if error is None else str(error),
            )
        )

    def _child_id(self) -> str:
        """The process span's own id ends in 00."""
        number = len(self._spans) + 1
        return self.context.span_id[:14] + _TWO_DIGITS[number] if number < 256 else new_span_id()

    # ---------------------------------------------------------------- what is told while it lasts

    def happened(self, what: str) -> None:
        self._events.append((time.time_ns(), what))

    def about(self, request_id: UUID | None, attempt: int) -> None:
        if request_id is not None:
            self._request_id = request_id
        if attempt:
            self._attempt = attempt

    def failed(self, kind: str, text: str) -> None:
        self._failure, self._error = kind, text


_MESSAGE_ID, _CONVERSATION_ID = "messaging.message.id", "messaging.message.conversation_id"
_TAG, _REQUEST_ID = "messaging.rabbitmq.message.delivery_tag", "session_worker.request_id"
_ERROR = "error.type"
_TWO_DIGITS = tuple(f"{number:02x}" for number in range(256))


class _Current(NonRecordingSpan):
    """The process span as the handler finds it: one that its own spans can be under."""

    def __init__(self, context: TraceContext) -> None:
        self._place = context

    def get_span_context(self) -> SpanContext:
        return context_of(self._place)

    def __repr__(self) -> str:
        return f"_Current({self._place})"


# ------------------------------------------------------------------------ what a span hears of events


def _lasting() -> SpanTrace | None:
    trace = current_trace.get()
    return trace if isinstance(trace, SpanTrace) else None


def _on_attempt_ended(_: AttemptEnded) -> None:
    if trace := _lasting():
        trace.happened("attempt ended")


def _on_failure(event: AttemptFailed) -> None:
    if trace := _lasting():
        trace.failed(event.error_code.value, event.error)


def _on_finished(event: RequestFinished) -> None:
    if event.error_code is None or event.outcome not in ("exhausted", "refused"):
        return
    if trace := _lasting():
        trace.failed(event.error_code.value, event.error or "")


def _on_handed_back(event: RequestHandedBack) -> None:
    if trace := _lasting():
        trace.about(event.request_id, event.attempt)


def _on_taken_over(_: RequestTakenOver) -> None:
    if trace := _lasting():
        trace.happened("taken over")


def _on_left(event: DeliveryLeft) -> None:
    if trace := _lasting():
        trace.about(event.request_id, event.attempt)
        trace.failed("LinkLostError", event.reason)


def _on_defect(event: DeliveryFailed | OutcomeNotRecorded) -> None:
    if trace := _lasting():
        trace.about(event.request_id, event.attempt)
        trace.failed(type(event.exc_info).__name__, str(event.exc_info))


# ------------------------------------------------------------------------------------- setting up


class _Reporter(logging.Handler):
    """What the SDK logs about its trouble, once in a while and as a sentence."""

    def __init__(self, trouble: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self._trouble = trouble
        self._silent_until = 0.0

    def emit(self, record: logging.LogRecord) -> None:
        self.tell(record.getMessage())

    def tell(self, reason: str) -> None:
        now = time.monotonic()
        if now >= self._silent_until:
            self._silent_until = now + QUIET_SECONDS
            self._trouble(" ".join(reason.split())[:500])


def start(settings: Settings, names: Names, worker_id: str, trouble: Callable[[str], None]) -> Traces | None:
    """Traces as OpenTelemetry's own variables say, if not that there be none; ``trouble`` hears, in the event
    loop, of what keeps them from the collector.

    Raises:
        ValueError: a variable's value is not one that can be served.
    """
    if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return None
    for variable, known in (
        ("OTEL_TRACES_EXPORTER", "otlp"),
        *((name, "http/protobuf") for name in _PROTOCOLS),
    ):
        if (value := os.environ.get(variable, known).strip()) not in ("", known):
            raise ValueError(f"{variable}: this worker knows {known} alone, not {value[:100]}")
    loop = asyncio.get_running_loop()

    def tell(reason: str) -> None:
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(trouble, reason)

    reporter = _Reporter(tell)
    logger = logging.getLogger("opentelemetry")
    logger.handlers[:] = [reporter]
    logger.propagate = False
    resource = Resource.create({SERVICE_INSTANCE_ID: worker_id})
    if str(resource.attributes[SERVICE_NAME]).startswith("unknown_service"):
        resource = resource.merge(Resource({SERVICE_NAME: SCOPE.name}))
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    # A handler's spans are live ones, and go the SDK's own way.
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    otel.set_tracer_provider(provider)
    outbox = _outbox(OTLPSpanExporter(), resource, reporter.tell)
    return Traces(provider, outbox, names, _server(settings.amqp_urls))


def readable_outbox(
    resource: Resource, export: Callable[[list[ReadableSpan]], object], trouble: Callable[[str], None]
) -> Outbox[list[ReadableSpan]]:
    """For an exporter of the SDK's."""

    def form(spans: list[Span]) -> list[ReadableSpan]:
        return [readable(span, resource) for span in spans]

    return Outbox(form, lambda batch: export([span for spans in batch for span in spans]), trouble)


def _outbox(exporter: OTLPSpanExporter, resource: Resource, trouble: Callable[[str], None]) -> Outbox[Any]:
    # The one private name of the SDK that is used. Should it go, a test fails, and spans are exported all
    # the same, at the SDK's price.
    client = getattr(exporter, "_client", None)
    if client is None:
        return readable_outbox(resource, exporter.export, trouble)
    envelope = Envelope(resource)
    return Outbox(
        lambda spans: b"".join(map(encoded, spans)), lambda spans: client.export(envelope(spans)), trouble
    )


def _server(urls: tuple[str, ...]) -> dict[str, str | int]:
    if len(urls) > 1:
        return {}
    url = urlsplit(urls[0])
    port = url.port or (5671 if url.scheme == "amqps" else 5672)
    return {"server.address": url.hostname or "", "server.port": port}
