"""One worker: it works until it is told to stop, then shuts down in order."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from session_worker.ledger import open_pruner, prune
from session_worker.ledger.protocol import LedgerError
from session_worker.runtime.health import STARTING, TOLD_TO_STOP, Report
from session_worker.runtime.stopping import StartError
from session_worker.telemetry.events import WorkerStopped

if TYPE_CHECKING:
    import asyncio

    from session_worker.ledger.protocol import Ledger
    from session_worker.requests.settle import Settler
    from session_worker.runtime.intake import Intake
    from session_worker.runtime.keeper import LinkKeeper
    from session_worker.settings import Settings
    from session_worker.telemetry.events import Emit
    from session_worker.telemetry.metrics import Metrics
    from session_worker.telemetry.traces import Traces


@dataclass(slots=True)
class Worker:
    """What ``assemble`` builds."""

    worker_id: str
    settings: Settings
    stop: asyncio.Event
    ledger: Ledger
    keeper: LinkKeeper
    settler: Settler
    intake: Intake
    metrics: Metrics
    traces: Traces | None
    emit: Emit
    _no_ledger: str = STARTING

    async def run(self, *, patient: bool = False) -> None:
        """Work until ``stop`` is set, then shut down. ``patient``: wait for the broker without end from the
        start.

        Each step of the shutdown is bounded in time; ``Stop`` ends the process if all take too long together.

        Raises:
            StartError: the worker cannot start.
        """
        try:
            opened = await self.ledger.open()
        except LedgerError as error:
            raise StartError(str(error)) from error
        self._no_ledger = ""
        url = self.settings.ledger_url.get_secret_value()
        try:
            async with prune.in_background(lambda: open_pruner(url), self.settings.retention, self.emit):
                try:
                    await self.keeper.run(self.intake, opened, patient=patient)
                    # 1. Have the broker deliver nothing more.
                    await self.keeper.pause(self.intake)
                    # 2. Let what runs finish, for the grace.
                    await self.intake.drain()
                    # 3. Cancel what still runs: its requests are pending again, its deliveries are requeued.
                    await self.intake.give_back()
                finally:
                    # 4. Send the last acknowledgements and close the link.
                    await self.keeper.close()
        finally:
            # 5. Close the ledger, which forgets this worker as a holder.
            await self.ledger.close()
            # 6. Export the last spans.
            if self.traces is not None:
                await self.traces.close()
        self.emit(WorkerStopped())

    def report(self) -> Report:
        """Say how the worker is at this moment."""
        link, stuck = self.keeper.link, self.settler.stuck
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
                "replies": link.trouble if link else "",
                "shutdown": TOLD_TO_STOP if self.stop.is_set() else "",
            },
            metrics=self.metrics.snapshot(),
        )
