"""Builds a worker from its settings."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
from typing import TYPE_CHECKING

from session_contracts.amqp import Names
from session_worker.ledger import open_ledger
from session_worker.operations import loading
from session_worker.requests.flow import Flow
from session_worker.requests.parse import RequestParser
from session_worker.requests.response import ResponseBuilder
from session_worker.requests.settle import Settler
from session_worker.requests.slots import HandlerThreads
from session_worker.runtime.intake import Intake
from session_worker.runtime.keeper import LinkKeeper
from session_worker.runtime.stopping import StartError
from session_worker.runtime.worker import Worker
from session_worker.telemetry import log, trace
from session_worker.telemetry.events import TracesNotTaken, emitter
from session_worker.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from collections.abc import Callable

    from session_worker.settings import Settings
    from session_worker.telemetry.traces import Traces


def assemble(settings: Settings, stop: asyncio.Event, up: Callable[[], None] = lambda: None) -> Worker:
    """Build a worker, in its event loop. It works until ``stop`` is set, and calls ``up`` whenever it has
    begun to consume.

    Raises:
        HandlerNotFoundError: the handler cannot be loaded.
        LedgerError: the URL of the ledger cannot be used.
        StartError: traces cannot be sent.
    """
    names = Names(settings.prefix)
    worker_id = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
    metrics = Metrics(
        inflight=lambda: len(intake.serving),
        broker_connected=lambda: keeper.link is not None,
        consumer_active=lambda: keeper.link is not None and keeper.link.consuming,
    )
    # Before the handler is loaded, which may make spans of its own.
    traces = _start_traces(settings, names, worker_id, lambda reason: emit(TracesNotTaken(reason)))
    emit = emitter(log.listeners(), metrics.listeners, traces.listeners if traces else {})
    ledger = open_ledger(
        settings.ledger_url.get_secret_value(),
        worker_id=worker_id,
        holder_timeout=settings.holder_timeout,
        migrate=settings.migrate,
        emit=emit,
    )
    asyncio.get_running_loop().set_default_executor(HandlerThreads(settings.concurrency))
    flow = Flow(
        ledger=ledger,
        handler=loading.load(settings.handler),
        parser=RequestParser(
            names, max_body_bytes=settings.max_body_bytes, reply_to_allow=settings.reply_to_allow
        ),
        responses=ResponseBuilder(worker_id),
        settings=settings,
        emit=emit,
    )
    keeper = LinkKeeper(settings, names, emit, stop, up)
    settler = Settler(
        keeper.publish,
        ledger,
        names,
        worker_id=worker_id,
        slowest_retry=settings.retry_delays[-1],
        emit=emit,
    )
    intake = Intake(
        flow,
        settler,
        ledger.availability,
        settings,
        emit,
        stop,
        begin=traces.begin if traces else trace.begin,
    )
    return Worker(worker_id, settings, stop, ledger, keeper, settler, intake, metrics, traces, emit)


def _start_traces(
    settings: Settings, names: Names, worker_id: str, trouble: Callable[[str], None]
) -> Traces | None:
    if not settings.traces:
        return None
    try:
        from session_worker.telemetry import traces
    except ImportError as error:
        raise StartError(
            "traces: OpenTelemetry is not installed; install session-worker[otel], or leave traces off"
        ) from error
    except ValueError as error:  # the SDK reads some variables when it is imported
        raise StartError(f"traces: {error}") from error
    try:
        return traces.start(settings, names, worker_id, trouble)
    except (ValueError, RuntimeError) as error:  # RuntimeError: the SDK cannot load a part
        raise StartError(f"traces: {error}") from error
