"""Rates, latencies and counts, from one look at the ledger."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from session_contracts import RequestStatus
from session_worker.settings.durations import percentile

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from uuid import UUID

    from session_worker.ledger.reader import Recent

LATELY_SECONDS = 5.0
MINUTE = 60.0
SAMPLE = 3000
"""The newest requests that a look reads: more than are ever under way at the same time, in most places."""
FAILURES = 5


@dataclass(frozen=True, slots=True)
class Finished:
    """What finished in the last ``seconds``.

    ``rates``: requests per second, by ``completed`` or error code. ``p50`` and ``p95``: seconds from first
    claim to outcome, or None without any; requests that were redriven, and lay dead meanwhile, do not count.
    """

    seconds: float
    rates: Mapping[str, float]
    p50: float | None
    p95: float | None

    def document(self) -> dict[str, Any]:
        return {
            "finished_per_second": {outcome: round(rate, 3) for outcome, rate in self.rates.items()},
            "measured_seconds": round(self.seconds, 3),
            "p50_seconds": self.p50,
            "p95_seconds": self.p95,
        }


@dataclass(frozen=True, slots=True)
class Traffic:
    """Requests by status, and the workers.

    ``running`` and ``failed`` count requests of the last hour that are in the samples; ``failed_more``: there
    may be more. ``waiting`` counts all that wait for their next attempt, up to ``COUNTED``.
    """

    lately: Finished
    minute: Finished
    running: int
    waiting: int
    failed: int
    failed_more: bool
    workers: Sequence[str]


def traffic(recent: Recent) -> Traffic:
    """Work out the figures from a look at the ledger."""
    return Traffic(
        lately=finished(recent, LATELY_SECONDS),
        minute=finished(recent, MINUTE),
        running=sum(each.status is RequestStatus.PROCESSING for each in recent.newest),
        waiting=recent.waiting,
        failed=sum(each.status is RequestStatus.FAILED for each in recent.troubled),
        failed_more=len(recent.troubled) == SAMPLE,
        workers=recent.workers,
    )


def finished(recent: Recent, seconds: float) -> Finished:
    """Work out what finished in the last ``seconds``, or in the time that a full sample covers."""
    if len(recent.newest) == SAMPLE:
        seconds = min(seconds, max(recent.newest[-1].age, 0.001))
    # A request that failed after many attempts was received long before the sample.
    known = {each.request_id: each for each in (*recent.newest, *recent.troubled)}.values()
    ended = [each for each in known if each.took is not None and each.age - each.took <= seconds]
    took = [each.took for each in ended if each.took is not None and not each.redriven]
    count = Counter(each.error_code or RequestStatus.COMPLETED.value for each in ended)
    return Finished(
        seconds,
        rates={outcome: number / seconds for outcome, number in count.most_common()},
        p50=percentile(took, 50) if took else None,
        p95=percentile(took, 95) if took else None,
    )


def failed_last(recent: Recent) -> list[UUID]:
    """The requests that failed last, the newest failure first."""
    failed = [each for each in recent.troubled if each.status is RequestStatus.FAILED]
    failed.sort(key=lambda each: each.age - (each.took or 0))
    return [each.request_id for each in failed[:FAILURES]]
