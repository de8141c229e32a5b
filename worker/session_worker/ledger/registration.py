"""How workers register in the ledger, and how those that are gone are found."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

ALIVE = "gone_at > {now} AND renewed_at <= {now}"
"""The SQL condition for a worker that is alive. One that was renewed in the clock's future was so before the
clock was put back; if it lives, it renews itself within seconds."""


@dataclass(frozen=True, slots=True)
class Registration:
    """How one worker is registered. ``worker_id`` must be new for every process: under the name of a gone
    worker a new one would look as if that were alive. A worker that does not renew itself is taken for gone
    after ``holder_timeout`` seconds. It takes nothing over before it has renewed itself without a gap for
    ``takeover_grace`` seconds, so that the others can renew themselves first after an outage."""

    worker_id: str
    holder_timeout: float
    takeover_grace: float

    @property
    def interval(self) -> float:
        """Seconds between two renewals."""
        return min(self.holder_timeout / 5, 3.0)


class StandstillWatch:
    """Finds workers whose registration stands still for longer than their holder timeout, by a monotonic
    clock: by the ledger's own, if that was put back, they would look alive for as long."""

    def __init__(self, registration: Registration) -> None:
        self._longest_pause = registration.holder_timeout / 2
        self._looked = 0.0
        self._seen: dict[str, tuple[object, float]] = {}

    def still(self, registered: Sequence[tuple[str, object, float]], now: float | None = None) -> list[str]:
        """Which of the ``registered`` (name, last renewal, holder timeout in seconds) to take for gone.

        Ask at each of this worker's own renewals. After a pause it begins anew: whatever held this worker up
        may have held up the others too.
        """
        now = time.monotonic() if now is None else now
        before = self._seen if now - self._looked <= self._longest_pause else {}
        self._looked = now
        self._seen = {
            name: before[name] if name in before and before[name][0] == renewed_at else (renewed_at, now)
            for name, renewed_at, _ in registered
        }
        return [name for name, _, timeout in registered if now - self._seen[name][1] > timeout]
