"""Traces for OpenTelemetry, by its conventions for messaging; needs the extra ``session-worker[otel]``."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from opentelemetry import trace as otel
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_INSTANCE_ID, SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from yarl import URL

from session_client.net.failures import in_one_line
from session_client.net.urls import port_of
from session_worker.telemetry.spans import LISTENERS, SCOPE, Spans, SpanTrace, TraceIds
from session_worker.telemetry.trace import Trace, current_trace

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

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
    "session_worker.operation": "the operation of the queue",
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


class Traces:
    """Traces of one worker: the spans that are made of its deliveries, and their way to the collector."""

    listeners = LISTENERS

    def __init__(self, provider: TracerProvider, names: Names, server: Mapping[str, str | int]) -> None:
        self._provider = provider
        self._spans = Spans(provider, names, server)

    def begin(self, delivery: Delivery) -> Trace:
        """Follow the delivery's trace in this task, or begin one."""
        trace = SpanTrace(self._spans, delivery)
        current_trace.set(trace)
        return trace

    async def close(self) -> None:
        """Have the collector take what waits, for ``FLUSH_SECONDS`` at the most."""
        loop = asyncio.get_running_loop()
        done = asyncio.Event()

        def flush() -> None:
            self._provider.shutdown()
            with suppress(RuntimeError):  # the loop is closed: it came too late
                loop.call_soon_threadsafe(done.set)

        # Not one of asyncio's threads: the loop waits for those when it ends.
        threading.Thread(target=flush, name="last spans", daemon=True).start()
        with suppress(TimeoutError):
            async with asyncio.timeout(FLUSH_SECONDS):
                await done.wait()


# ------------------------------------------------------------------------------------- setting up


class _Reporter(logging.Handler):
    """Reports what the SDK logs about its trouble: as a sentence, and at most once in ``QUIET_SECONDS``."""

    def __init__(self, report: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self._report = report
        self._silent_until = 0.0

    def emit(self, record: logging.LogRecord) -> None:
        now = time.monotonic()
        if now < self._silent_until:
            return
        self._silent_until = now + QUIET_SECONDS
        error = record.exc_info[1] if record.exc_info else None
        reason = record.getMessage() if error is None else f"{record.getMessage()} {in_one_line(error)}"
        self._report(" ".join(reason.split())[:500])


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

    def report(reason: str) -> None:
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(trouble, reason)

    logger = logging.getLogger("opentelemetry")
    logger.handlers[:] = [_Reporter(report)]
    logger.propagate = False
    resource = Resource.create({SERVICE_INSTANCE_ID: worker_id})
    if str(resource.attributes[SERVICE_NAME]).startswith("unknown_service"):
        resource = resource.merge(Resource({SERVICE_NAME: SCOPE}))
    provider = TracerProvider(resource=resource, shutdown_on_exit=False, id_generator=TraceIds())
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    otel.set_tracer_provider(provider)
    return Traces(provider, names, _server(settings.amqp_urls))


def _server(urls: tuple[str, ...]) -> dict[str, str | int]:
    if len(urls) > 1:
        return {}
    url = URL(urls[0])
    return {"server.address": url.host or "", "server.port": port_of(url)}
