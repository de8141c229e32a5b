"""Who this worker is in the ledger's register of workers, and who else in it is still there."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

ALIVE = "gone_at > {now} AND renewed_at <= {now}"
"""The SQL condition for a worker that is there. One that renewed itself in the clock's future did so before
the clock was put back, and does it again within seconds if it lives."""


@dataclass(frozen=True, slots=True)
class Registration:
    """``worker_id`` must be new for every process: the entries of a gone worker are taken over, and a process
    under the same name would look like the gone one's being alive. Times in seconds: without renewal the
    worker is taken for gone after ``holder_timeout``; it takes nothing over before it has renewed itself
    without a gap for ``takeover_grace``, so that after an outage the others can renew themselves first."""

    worker_id: str
    holder_timeout: float
    takeover_grace: float

    @property
    def interval(self) -> float:
        """Seconds between two renewals."""
        return min(self.holder_timeout / 5, 3.0)


class StandstillWatch:
    """Finds workers whose registration stands still for longer than they promised, by a clock that nobody
    sets: the ledger's own may have been put back since, and would take them for living for as long."""

    def __init__(self, registration: Registration) -> None:
        self._longest_pause = registration.holder_timeout / 2
        self._looked = 0.0
        self._seen: dict[str, tuple[object, float]] = {}

    def still(self, registered: Sequence[tuple[str, object, float]], now: float | None = None) -> list[str]:
        """Which of the ``registered`` (name, last renewal, holder timeout in seconds) to take for gone.

        To be asked at each of our own renewals. After a pause we begin anew: the others may have been held up
        with us.
        """
        now = time.monotonic() if now is None else now
        before = self._seen if now - self._looked <= self._longest_pause else {}
        self._looked = now
        self._seen = {
            name: before[name] if name in before and before[name][0] == renewed_at else (renewed_at, now)
            for name, renewed_at, _ in registered
        }
        return [name for name, _, timeout in registered if now - self._seen[name][1] > timeout]
