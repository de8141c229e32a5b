"""Recovery: the broker restarts; the time from its being up again to the first answer."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from benchmarks.load import warm_up
from benchmarks.messages import REPLIES, new_request
from benchmarks.plan import Measurement
from benchmarks.stage import REPLY_SECONDS
from benchmarks.wire import ReplyQueue, WireError, publish_confirmed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.contestants import Contestant
    from benchmarks.plan import Plan
    from benchmarks.stage import Run, Stage

GAVE_UP: Final = "c-echo"
"""It does not reconnect."""


def measurements(stage: Stage, plan: Plan) -> Iterator[Measurement]:
    for repetition, contestant in plan.turns([each for each in plan.contestants if each.name != GAVE_UP]):
        yield Measurement(contestant.name, repetition, partial(_measure, stage, contestant))


def _measure(stage: Stage, contestant: Contestant) -> list[dict[str, Any]]:
    with stage.running(contestant) as run:
        warm_up(run)
        start = time.perf_counter()
        stage.node.restart()
        up = time.perf_counter()
        answered = _first_answer(run)
        return [
            {
                "outage_seconds": up - start,
                "seconds_to_first_answer": (answered or time.perf_counter()) - up,
                "answered": answered is not None,
            }
        ]


def _first_answer(run: Run) -> float | None:
    """When the answer to a new request came; None when it did not."""
    request = new_request()
    with ReplyQueue(run.url, REPLIES, run.contestant.reply_arguments) as replies:
        publish_confirmed(run.url, [data for _, data in run.encoded([request])])
        try:
            while True:
                run.process.check()
                for reply in replies.read(REPLY_SECONDS):
                    if run.contestant.format.id_of(reply) == request.id:
                        run.check(request, reply)
                        return reply.at
        except WireError:
            return None
