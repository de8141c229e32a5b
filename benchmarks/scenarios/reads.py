"""Reads: a drain of requests that create sessions beside one of requests that read them."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import cycle, islice
from typing import TYPE_CHECKING, Any, Final

from benchmarks.contestants import reading
from benchmarks.load import ClosedLoop, drive, warm_up
from benchmarks.messages import new_read, new_request, session_of
from benchmarks.plan import Measurement
from benchmarks.scenarios.drain import REQUESTS, drain

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from benchmarks.contestants import Contestant
    from benchmarks.messages import Request
    from benchmarks.plan import Plan
    from benchmarks.stage import Run, Stage

SESSIONS: Final = 500


def measurements(stage: Stage, plan: Plan) -> Iterator[Measurement]:
    requests = plan.count(REQUESTS)
    for repetition, contestant in plan.turns([each for each in plan.contestants if each.is_ours]):
        yield Measurement(contestant.name, repetition, partial(_measure, stage, contestant, requests))


def _measure(stage: Stage, contestant: Contestant, requests: int) -> list[dict[str, Any]]:
    with stage.running(contestant) as run:
        warm_up(run)
        reads = readers(run)
        drive(reads, ClosedLoop(reads, reads_of(run, SESSIONS), 16))
        return [
            {"operation": "create_session"} | drain(run, [new_request() for _ in range(requests)]),
            {"operation": "get_session"} | drain(reads, reads_of(run, requests)),
        ]


def readers(run: Run) -> Run:
    """The same worker, asked to read."""
    return replace(run, contestant=reading(run.contestant))


def reads_of(run: Run, requests: int) -> Sequence[Request]:
    """So many reads of sessions that are created for them."""
    created = ClosedLoop(run, [new_request("0") for _ in range(SESSIONS)], 16)
    drive(run, created)
    return [new_read(session) for session in islice(cycle(map(session_of, created.replies)), requests)]
