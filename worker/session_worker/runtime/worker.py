"""One worker: built from its settings, at work until it is told to stop, then shut down in order."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

from session_contracts.amqp import Names
from session_worker.ledger import open_ledger, open_pruner, prune
from session_worker.ledger.protocol import LedgerError
from session_worker.operations import loading
from session_worker.requests.flow import NO_LIMIT
from session_worker.requests.threads import HandlerThreads
from session_worker.runtime.assembly import intake_of
from session_worker.runtime.health import STARTING, TOLD_TO_STOP, Report
from session_worker.runtime.intake import drain, hand_back, handlers_run, why_paused
from session_worker.runtime.keeper import LinkKeeper
from session_worker.runtime.lifespan import Lifespan
from session_worker.runtime.served import served_by
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
        AppError: the app cannot be served.
        LedgerError: the URL of the ledger cannot be used.
        StartError: traces cannot be sent.
    """

    def __init__(
        self, settings: Settings, stop: asyncio.Event, up: Callable[[], None] = lambda: None
    ) -> None:
        self._settings = settings
        self._stop = stop
        self._names = Names(settings.prefix)
        self.worker_id = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
        self._metrics = Metrics(
            inflight=lambda: {intake.served.name: len(intake.serving) for intake in self.intakes},
            broker_connected=lambda: self.keeper.link is not None,
            consumer_active=lambda: (
                self.keeper.link is not None and all(intake.subscription.consuming for intake in self.intakes)
            ),
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
        app = loading.load(settings.app, settings.handler)
        served = served_by(settings, app)
        slots = sum(each.limits.concurrency for each in served)
        asyncio.get_running_loop().set_default_executor(HandlerThreads(slots))
        room = NO_LIMIT if app.concurrency is None else asyncio.Semaphore(app.concurrency)
        self._lifespan = Lifespan(app, stop, emit)
        self.keeper = LinkKeeper(settings, served, emit, stop, up)
        self.intakes = tuple(
            intake_of(
                each,
                settings=settings,
                worker_id=self.worker_id,
                ledger=self.ledger,
                publish=self.keeper.publish,
                emit=emit,
                stop=stop,
                begin=self.traces.begin if self.traces else trace.begin,
                room=room,
            )
            for each in served
        )

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
        except (ValueError, RuntimeError, ImportError) as error:  # the last two: the SDK cannot load a part
            raise StartError(f"traces: {error}") from error

    async def run(self, *, restarted: bool = False) -> None:
        """Work until ``stop`` is set, then shut down.

        ``restarted``: another worker was in this one's place, and the settings are good. So the broker is
        waited for without end from the start.

        Raises:
            StartError: the worker cannot start, or the app's lifespan ended before it.
        """
        try:
            opened = await self.ledger.open()
        except LedgerError as error:
            raise StartError(error.diagnosis) from error
        self._no_ledger = ""
        url = self._settings.ledger_url.get_secret_value()
        try:
            self.keeper.no_link = "waiting for the app's lifespan"
            resources = await self._lifespan.enter()
            for intake in self.intakes:
                if not intake.served.binding.built_in:
                    intake.flow.resources = resources
            async with prune.in_background(lambda: open_pruner(url), self._settings.retention, self._emit):
                try:
                    await self.keeper.run(self.intakes, opened, restarted=restarted)
                    # The shutdown, each step bounded in time; ``Stop`` bounds all of them together.
                    # 1. Have the broker deliver nothing more.
                    await self.keeper.pause(self.intakes)
                    # 2. Let what runs finish, for the grace.
                    await drain(self.intakes, self._settings.shutdown_grace, self._emit)
                    # 3. Cancel what still runs: its requests are pending again, its deliveries are requeued.
                    await hand_back(self.intakes, self._emit)
                finally:
                    # 4. Send the last acknowledgements and close the link.
                    await self.keeper.close()
        finally:
            # 5. Close the ledger, which forgets this worker as a holder. What waited for it ends.
            await self.ledger.close()
            # 6. Leave the app's lifespan. A handler that does not end keeps what it uses to the last.
            await self._lifespan.leave(in_use=handlers_run(self.intakes))
            # 7. Export the last spans.
            if self.traces is not None:
                await self.traces.close()
        if self._lifespan.broken is not None:
            raise self._lifespan.broken
        self._emit(WorkerStopped())

    def report(self) -> Report:
        """Say how the worker is at this moment."""
        link, stuck = self.keeper.link, sum(intake.settler.stuck for intake in self.intakes)
        return Report(
            pid=os.getpid(),
            worker_id=self.worker_id,
            started=self.keeper.started,
            checks={
                "broker": "" if link else self.keeper.no_link,
                "consumer": why_paused(self.intakes, link) if link else self.keeper.no_link,
                "entrance": link.entrance if link else "",
                "ledger": self._no_ledger or self.ledger.availability.reason,
                "copies": f"the broker does not take {stuck} of them" if stuck else "",
                "replies": link.publisher.trouble if link else "",
                "shutdown": TOLD_TO_STOP if self._stop.is_set() else "",
            },
            metrics=self._metrics.snapshot(),
        )
