"""Slow handlers: a thousand at a time, all waiting, against what waiting alone would allow."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final

from benchmarks.load import warm_up
from benchmarks.messages import new_request
from benchmarks.plan import Measurement
from benchmarks.scenarios.drain import drain

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.contestants import Contestant
    from benchmarks.plan import Plan
    from benchmarks.stage import Stage

CONCURRENCY: Final = 1000
WAITS: Final = {0.05: 30_000, 1.0: 10_000}
"""Seconds, and for how many requests: the first and the last wait are not to weigh much. At the first the
processor is the limit, at the second waiting is."""


def measurements(stage: Stage, plan: Plan) -> Iterator[Measurement]:
    requests = {wait: plan.count(count) for wait, count in WAITS.items()}
    for repetition, contestant in plan.turns([each for each in plan.contestants if each.waits]):
        yield Measurement(contestant.name, repetition, partial(_measure, stage, contestant, requests))


def _measure(stage: Stage, contestant: Contestant, requests: dict[float, int]) -> list[dict[str, Any]]:
    """The ideal is the lesser of what the waits allow and of what the same process does without them."""
    with stage.running(contestant, concurrency=CONCURRENCY, waiting=True) as run:
        warm_up(run, "0")
        drained = {
            wait: drain(run, [new_request(f"{wait:g}") for _ in range(count)])
            for wait, count in ({0.0: max(requests.values())} | requests).items()
        }
    rows = []
    for wait in WAITS:
        ideal = min(CONCURRENCY / wait, drained[0.0]["requests_per_second"])
        rate = drained[wait]["requests_per_second"]
        rows.append(
            {"wait_seconds": wait, "ideal_requests_per_second": ideal, "share_of_ideal": rate / ideal}
            | drained[wait]
        )
    return rows
