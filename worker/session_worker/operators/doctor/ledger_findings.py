"""What the doctor finds at a ledger, SQLite or PostgreSQL."""

from __future__ import annotations

from dataclasses import dataclass, field

from session_worker.operators.doctor.result import Result, State, ok, warning
from session_worker.settings import durations

SKEW_SECONDS = 2.0
LARGE_BYTES = 10 * 1024**3


@dataclass(slots=True)
class LedgerFindings:
    """``alive`` and ``gone`` count registered workers; ``identity``: see ``Opened``. None: unknown."""

    results: list[Result] = field(default_factory=list)
    alive: int | None = None
    gone: int | None = None
    identity: str | None = None

    @property
    def usable(self) -> bool:
        return all(result.state is not State.FAILED for result in self.results)


def size(rows: int, count: int, retention: float | None) -> Result:
    """``rows``: about how many requests; ``count``: bytes."""
    found = f"about {rows:,} requests, {count / 1024**2:,.0f} MiB"
    if retention is None and count > LARGE_BYTES:
        return warning(
            "ledger size", f"{found}, and nothing is ever deleted", "set SESSION_WORKER_RETENTION, to 30d say"
        )
    kept = (
        "nothing is deleted" if retention is None else f"deleted {durations.text(retention)} after their end"
    )
    return ok("ledger size", f"{found}; {kept}")


def clock_skew(seconds: float) -> Result:
    """``seconds``: how far the ledger's clock is ahead of this machine's."""
    if abs(seconds) <= SKEW_SECONDS:
        return ok("ledger clock", f"within {SKEW_SECONDS:g} s of this machine's")
    return warning(
        "ledger clock",
        f"{abs(seconds):.1f} s {'ahead of' if seconds > 0 else 'behind'} this machine's: attempts and expiry "
        "go by the ledger's, but the times in answers, in letters and in the log are this machine's",
        "have both machines keep time by NTP",
    )
