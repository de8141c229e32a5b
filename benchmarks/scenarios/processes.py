"""Processes: a drain by one, two and four processes of ours on one PostgreSQL ledger."""

from __future__ import annotations

from functools import partial
from itertools import product
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

REQUESTS: Final = 20_000
LEVELS: Final = (1, 2, 4)


def measurements(stage: Stage, plan: Plan) -> Iterator[Measurement]:
    requests = plan.count(REQUESTS)
    able = [each for each in plan.contestants if each.is_ours and each.ledger == "postgresql"]
    for repetition, (contestant, processes) in plan.turns(list(product(able, LEVELS))):
        yield Measurement(
            contestant.name, repetition, partial(_measure, stage, contestant, requests, processes)
        )


def _measure(stage: Stage, contestant: Contestant, requests: int, processes: int) -> list[dict[str, Any]]:
    with stage.running(contestant, settings={"SESSION_WORKER_PROCESSES": str(processes)}) as run:
        warm_up(run)
        row = drain(run, [new_request() for _ in range(requests)])
        return [{"worker_processes": processes} | row]
