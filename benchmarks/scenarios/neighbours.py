"""Neighbours: what reads feel of another operation whose handlers take 2 s each, all of its slots taken."""

from __future__ import annotations

from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any, Final

from benchmarks.load import ClosedLoop, drive, warm_up
from benchmarks.messages import new_request
from benchmarks.plan import Measurement
from benchmarks.scenarios.latency import percentiles
from benchmarks.scenarios.reads import readers, reads_of
from benchmarks.stage import CONCURRENCY

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.contestants import Contestant
    from benchmarks.plan import Plan
    from benchmarks.stage import Run, Stage

READS: Final = 15_000
READS_IN_FLIGHT: Final = 16
SLOW_TITLE: Final = "2"


def measurements(stage: Stage, plan: Plan) -> Iterator[Measurement]:
    requests = plan.count(READS)
    for repetition, contestant in plan.turns([each for each in plan.contestants if each.is_ours]):
        yield Measurement(contestant.name, repetition, partial(_measure, stage, contestant, requests))


def _measure(stage: Stage, contestant: Contestant, requests: int) -> list[dict[str, Any]]:
    with stage.running(contestant, waiting=True) as run:
        warm_up(run, "0")
        reads_of(run, 1)
        return [
            {"load": "alone"} | _reads(run, requests, 0),
            {"load": "beside a slow operation"} | _reads(run, requests, CONCURRENCY),
        ]


def _reads(run: Run, requests: int, slow_in_flight: int) -> dict[str, Any]:
    """The latencies of reads while so many slow requests run."""
    reads = ClosedLoop(readers(run), reads_of(run, requests), READS_IN_FLIGHT)
    slow = ClosedLoop(
        run,
        (new_request(SLOW_TITLE) for _ in count()),
        slow_in_flight,
        per_second=slow_in_flight / float(SLOW_TITLE),
    )
    drive(run, reads, slow)
    return percentiles(reads.latencies) | {"slow_answered": len(slow.latencies)}
