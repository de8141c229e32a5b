"""One worker: built from its settings, at work until it is told to stop, then shut down in order."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

from session_contracts import CREATE_SESSION
from session_contracts.amqp import Names
from session_worker.ledger import open_ledger, open_pruner, prune
from session_worker.ledger.protocol import LedgerError
from session_worker.operations import loading
from session_worker.operations.binding import Limits
from session_worker.requests.flow import Flow
from session_worker.requests.parse import RequestParser
from session_worker.requests.response import ResponseBuilder
from session_worker.requests.settle import Settler
from session_worker.requests.threads import HandlerThreads
from session_worker.runtime.health import STARTING, TOLD_TO_STOP, Report
from session_worker.runtime.intake import Intake
from session_worker.runtime.keeper import LinkKeeper
from session_worker.runtime.stopping import StartError
from session_worker.telemetry import log, trace
from session_worker.telemetry.events import TracesNotTaken, WorkerStopped, emitter
from session_worker.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from collections.abc import Callable

    from session_worker.settings import Settings
    from session_worker.telemetry.traces import Traces


class Worker:
    """Answers requests until ``stop`` is set. ``up`` is called whenever it has begun to consume.

    Raises:
        AppError: the handler cannot be loaded.
        LedgerError: the URL of the ledger cannot be used.
        StartError: traces cannot be sent.
    """

    def __init__(
        self, settings: Settings, stop: asyncio.Event, up: Callable[[], None] = lambda: None
    ) -> None:
        self._settings = settings
        self._stop = stop
        self._names = names = Names(settings.prefix)
        self.worker_id = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
        self._metrics = Metrics(
            inflight=lambda: {CREATE_SESSION.name: len(self.intake.serving)},
            broker_connected=lambda: self.keeper.link is not None,
            consumer_active=lambda: self.keeper.link is not None and self.keeper.link.consuming,
        )
        # Before the handler is loaded, which may make spans of its own.
        self.traces = self._start_traces() if settings.traces else None
        self._emit = emit = emitter(
            log.listeners(), self._metrics.listeners, self.traces.listeners if self.traces else {}
        )
        self.ledger = open_ledger(
            settings.ledger_url.get_secret_value(),
            worker_id=self.worker_id,
            holder_timeout=settings.holder_timeout,
            migrate=settings.migrate,
            emit=emit,
        )
        self._no_ledger = STARTING
        app = loading.load(hook=settings.handler)
        asyncio.get_running_loop().set_default_executor(HandlerThreads(settings.concurrency))
        binding = app.bindings[0]
        flow = Flow(
            binding,
            binding.limits(Limits.of(settings)),
            ledger=self.ledger,
            parser=RequestParser(
                binding,
                names,
                max_body_bytes=settings.max_body_bytes,
                reply_to_allow=settings.reply_to_allow,
            ),
            responses=ResponseBuilder(self.worker_id, binding),
            settings=settings,
            emit=emit,
        )
        self.keeper = LinkKeeper(settings, names, emit, stop, up)
        self._settler = Settler(
            self.keeper.publish,
            self.ledger,
            binding,
            names,
            worker_id=self.worker_id,
            slowest_retry=settings.retry_delays[-1],
            emit=emit,
        )
        begin = self.traces.begin if self.traces else trace.begin
        self.intake = Intake(flow, self._settler, self.ledger.availability, settings, emit, stop, begin)

    def _start_traces(self) -> Traces | None:
        if name := os.environ.get("OTEL_PYTHON_CONTEXT"):
            # Checked before the import, which would log a traceback of OpenTelemetry's own.
            known = {each.name for each in entry_points(group="opentelemetry_context")}
            if known and name not in known:
                raise StartError(
                    f"traces: OTEL_PYTHON_CONTEXT: there is {', '.join(known)}, not {name[:100]}"
                )
        try:
            from session_worker.telemetry import traces
        except ImportError as error:
            raise StartError(
                "traces: OpenTelemetry is not installed", "install session-worker[otel], or leave traces off"
            ) from error
        except ValueError as error:  # the SDK reads some variables when it is imported
            raise StartError(f"traces: {error}") from error
        try:
            return traces.start(
                self._settings, self._names, self.worker_id, lambda reason: self._emit(TracesNotTaken(reason))
            )
        except (ValueError, RuntimeError) as error:  # RuntimeError: the SDK cannot load a part
            raise StartError(f"traces: {error}") from error

    async def run(self, *, restarted: bool = False) -> None:
        """Work until ``stop`` is set, then shut down.

        ``restarted``: another worker was in this one's place, and the settings are good. So the broker is
        waited for without end from the start.

        Raises:
            StartError: the worker cannot start.
        """
        try:
            opened = await self.ledger.open()
        except LedgerError as error:
            raise StartError(error.diagnosis) from error
        self._no_ledger = ""
        url = self._settings.ledger_url.get_secret_value()
        try:
            async with prune.in_background(lambda: open_pruner(url), self._settings.retention, self._emit):
                try:
                    await self.keeper.run(self.intake, opened, restarted=restarted)
                    # The shutdown, each step bounded in time; ``Stop`` bounds all of them together.
                    # 1. Have the broker deliver nothing more.
                    await self.keeper.pause(self.intake)
                    # 2. Let what runs finish, for the grace.
                    await self.intake.drain()
                    # 3. Cancel what still runs: its requests are pending again, its deliveries are requeued.
                    await self.intake.hand_back()
                finally:
                    # 4. Send the last acknowledgements and close the link.
                    await self.keeper.close()
        finally:
            # 5. Close the ledger, which forgets this worker as a holder.
            await self.ledger.close()
            # 6. Export the last spans.
            if self.traces is not None:
                await self.traces.close()
        self._emit(WorkerStopped())

    def report(self) -> Report:
        """Say how the worker is at this moment."""
        link, stuck = self.keeper.link, self._settler.stuck
        return Report(
            pid=os.getpid(),
            worker_id=self.worker_id,
            started=self.keeper.started,
            checks={
                "broker": "" if link else self.keeper.no_link,
                "consumer": self.intake.why_paused(link) if link else self.keeper.no_link,
                "entrance": link.entrance if link else "",
                "ledger": self._no_ledger or self.ledger.availability.reason,
                "copies": f"the broker does not take {stuck} of them" if stuck else "",
                "replies": link.publisher.trouble if link else "",
                "shutdown": TOLD_TO_STOP if self._stop.is_set() else "",
            },
            metrics=self._metrics.snapshot(),
        )
