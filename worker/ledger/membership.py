"""Who this worker is in the ledger's register of workers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Membership:
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
