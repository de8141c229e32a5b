"""Drain: a queue full of requests, and the time to the last reply."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from benchmarks.load import warm_up
from benchmarks.messages import new_request
from benchmarks.plan import Measurement
from benchmarks.wire import publish_confirmed

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from benchmarks.contestants import Contestant
    from benchmarks.messages import Request
    from benchmarks.plan import Plan
    from benchmarks.stage import Run, Stage
    from benchmarks.wire import Reply

REQUESTS: Final = 10_000
SETTLE_SECONDS: Final = 0.5
"""What a contestant does after its last reply (acknowledgements, notes) is part of its price."""
NAP_SECONDS: Final = 0.002


def measurements(stage: Stage, plan: Plan) -> Iterator[Measurement]:
    requests = plan.count(REQUESTS)
    for repetition, contestant in plan.turns(plan.contestants):
        yield Measurement(contestant.name, repetition, partial(_measure, stage, contestant, requests))


def _measure(stage: Stage, contestant: Contestant, requests: int) -> list[dict[str, Any]]:
    with stage.running(contestant) as run:
        warm_up(run)
        return [drain(run, [new_request() for _ in range(requests)])]


def drain(run: Run, requests: Sequence[Request]) -> dict[str, Any]:
    """Freeze the contestant, fill its queue, let it go: start-up is no part of this, nor is the filling."""
    frames = [data for _, data in run.encoded(requests)]
    run.process.freeze()
    publish_confirmed(run.url, frames)
    cpu, own_cpu = run.process.cpu_seconds(), time.process_time()
    start = time.perf_counter()
    run.process.thaw()
    replies = _collect(run, requests)
    seconds = replies[-1].at - start
    own_cpu = time.process_time() - own_cpu
    time.sleep(SETTLE_SECONDS)
    cpu = run.process.cpu_seconds() - cpu
    rss = run.process.peak_rss()
    _check(run, requests, replies)
    count = len(requests)
    return {
        "requests": count,
        "seconds": seconds,
        "requests_per_second": count / seconds,
        "cpu_us_per_request": cpu / count * 1e6,
        "peak_rss_mb": sum(rss) / 1e6,
        "processes": len(rss),
        "duplicate_replies": len(replies) - count,
        "generator_cpu_us_per_request": own_cpu / count * 1e6,
    }


def _collect(run: Run, requests: Sequence[Request]) -> list[Reply]:
    replies: list[Reply] = []
    missing = {request.id for request in requests}
    while missing:
        arrived = run.read()
        replies += arrived
        missing.difference_update(map(run.contestant.format.id_of, arrived))
        # Waking up for each reply would take the processor from those that are measured.
        time.sleep(NAP_SECONDS)
    return replies


def _check(run: Run, requests: Sequence[Request], replies: Sequence[Reply]) -> None:
    asked = {request.id: request for request in requests}
    for reply in replies:
        run.check(asked[run.contestant.format.id_of(reply)], reply)
