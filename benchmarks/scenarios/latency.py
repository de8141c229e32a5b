"""Latency: a closed loop with 1, 16, 64 and 256 requests in flight."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from benchmarks.load import closed_loop, warm_up
from benchmarks.messages import new_request
from benchmarks.plan import Measurement
from benchmarks.scenarios.commits import FLOORS
from benchmarks.statistics import quantile

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from benchmarks.contestants import Contestant
    from benchmarks.plan import Plan
    from benchmarks.stage import Stage

REQUESTS: Final = {1: 1000, 16: 3000, 64: 5000, 256: 8000}


def measurements(stage: Stage, plan: Plan) -> Iterator[Measurement]:
    """The contestants, and the two commits measured alone, in the same repetitions."""
    entrants: list[Contestant | str] = [*plan.contestants, *FLOORS]
    for repetition, entrant in plan.turns(entrants):
        if isinstance(entrant, str):
            yield Measurement(entrant, repetition, partial(_measure_floor, stage, plan, entrant))
        else:
            yield Measurement(entrant.name, repetition, partial(_measure, stage, plan, entrant))


def _measure(stage: Stage, plan: Plan, contestant: Contestant) -> list[dict[str, Any]]:
    rows = []
    with stage.running(contestant) as run:
        warm_up(run)
        for in_flight, requests in REQUESTS.items():
            batch = [new_request() for _ in range(plan.count(requests))]
            own_cpu, start = time.process_time(), time.perf_counter()
            latencies = closed_loop(run, batch, in_flight)
            share = (time.process_time() - own_cpu) / (time.perf_counter() - start)
            rows.append({"in_flight": in_flight} | percentiles(latencies) | {"generator_cpu_share": share})
    return rows


def _measure_floor(stage: Stage, plan: Plan, name: str) -> list[dict[str, Any]]:
    return [{"in_flight": 1} | percentiles(FLOORS[name](stage, plan.count(REQUESTS[1])))]


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """The quantiles of latency, in milliseconds."""
    return {f"p{percent}_ms": quantile(seconds, percent / 100) * 1000 for percent in (50, 95, 99)}
