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
from contextlib import suppress
from functools import lru_cache
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from opentelemetry import context as otel_context
from opentelemetry import trace as otel
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_INSTANCE_ID, SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import DEFAULT_ON, Decision
from opentelemetry.trace import NonRecordingSpan, SpanKind

from session_worker.messages.identifiers import first_span_id, new_span_id, new_trace_id
from session_worker.telemetry.outbox import Outbox
from session_worker.telemetry.span_trace import LISTENERS, SpanTrace
from session_worker.telemetry.spans import SCOPE, Envelope, Operation, context_of, readable
from session_worker.telemetry.trace import RANDOM, SAMPLED, Trace, TraceContext, current_trace

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.sampling import Sampler

    from session_contracts.amqp import Names
    from session_worker.messages.delivery import Delivery
    from session_worker.settings import Settings

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
    "session_worker.outcome": "`completed`, `replayed`, `retry_later`, `busy`, `rejected`, `expired`, "
    "`refused`, `failed` or `interrupted`",
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

    listeners = LISTENERS

    def __init__(
        self, provider: TracerProvider, outbox: Outbox, names: Names, server: Mapping[str, str | int]
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

    def begin(self, delivery: Delivery) -> Trace:
        """Follow the delivery's trace in this task, or begin one."""
        trace = SpanTrace(self, delivery)
        current_trace.set(trace)
        return trace

    def place(self, queue: str, parent: TraceContext | None) -> TraceContext:
        """Where the process span of a delivery from ``queue`` belongs, and whether it is wanted."""
        if parent is None:
            trace_id = new_trace_id()
            context = TraceContext(trace_id, first_span_id(trace_id), SAMPLED | RANDOM)
        else:
            context = TraceContext(parent.trace_id, new_span_id(), parent.flags, parent.state)
        return context if self._sampler is None else self._sampled(self._sampler, queue, parent, context)

    def _sampled(
        self, sampler: Sampler, queue: str, parent: TraceContext | None, context: TraceContext
    ) -> TraceContext:
        operation = self.processing(queue)
        within = _NO_PARENT
        if parent is not None:
            within = otel.set_span_in_context(NonRecordingSpan(context_of(parent, remote=True)), within)
        sampling = sampler.should_sample(
            within, int(context.trace_id, 16), operation.name, operation.kind, operation.attributes
        )
        state = sampling.trace_state.to_header() if sampling.trace_state else ""
        flags = context.flags & ~SAMPLED
        if sampling.decision is Decision.RECORD_AND_SAMPLE:
            flags |= SAMPLED
        return TraceContext(context.trace_id, context.span_id, flags, state)

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
        ours = self._names.is_ours(queue)
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
) -> Outbox:
    """For an exporter of the SDK's."""
    return Outbox(lambda spans: export([readable(span, resource) for span in spans]), trouble)


def _outbox(exporter: OTLPSpanExporter, resource: Resource, trouble: Callable[[str], None]) -> Outbox:
    # The one private name of the SDK that is used. Should it go, a test fails, and spans are exported all
    # the same, at the SDK's price.
    client = getattr(exporter, "_client", None)
    if client is None:
        return readable_outbox(resource, exporter.export, trouble)
    envelope = Envelope(resource)
    return Outbox(lambda spans: client.export(envelope(spans)), trouble)


def _server(urls: tuple[str, ...]) -> dict[str, str | int]:
    if len(urls) > 1:
        return {}
    url = urlsplit(urls[0])
    port = url.port or (5671 if url.scheme == "amqps" else 5672)
    return {"server.address": url.hostname or "", "server.port": port}
