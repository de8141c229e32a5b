"""Fast and slow handlers together: what requests of 1 ms feel of hundreds that take 2 s."""

from __future__ import annotations

from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any, Final

from benchmarks.load import ClosedLoop, drive, warm_up
from benchmarks.messages import new_request
from benchmarks.plan import Measurement
from benchmarks.scenarios.latency import percentiles

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.contestants import Contestant
    from benchmarks.plan import Plan
    from benchmarks.stage import Run, Stage

CONCURRENCY: Final = 1000
FAST_REQUESTS: Final = 15_000
FAST_IN_FLIGHT: Final = 16
SLOW_IN_FLIGHT: Final = 500
FAST_TITLE: Final = "0.001"
SLOW_TITLE: Final = "2"


def measurements(stage: Stage, plan: Plan) -> Iterator[Measurement]:
    requests = plan.count(FAST_REQUESTS)
    for repetition, contestant in plan.turns([each for each in plan.contestants if each.waits]):
        yield Measurement(contestant.name, repetition, partial(_measure, stage, contestant, requests))


def _measure(stage: Stage, contestant: Contestant, requests: int) -> list[dict[str, Any]]:
    with stage.running(contestant, concurrency=CONCURRENCY, waiting=True) as run:
        warm_up(run, "0")
        return [
            {"load": "alone"} | _fast(run, requests, 0),
            {"load": "mixed"} | _fast(run, requests, SLOW_IN_FLIGHT),
        ]


def _fast(run: Run, requests: int, slow_in_flight: int) -> dict[str, Any]:
    """The latencies of the fast ones while so many slow ones are under way."""
    fast = ClosedLoop(run, [new_request(FAST_TITLE) for _ in range(requests)], FAST_IN_FLIGHT)
    slow = ClosedLoop(
        run,
        (new_request(SLOW_TITLE) for _ in count()),
        slow_in_flight,
        per_second=slow_in_flight / float(SLOW_TITLE),
    )
    drive(run, fast, slow)
    return percentiles(fast.latencies) | {"slow_answered": len(slow.latencies)}
