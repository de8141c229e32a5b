"""Hostile headers: what a request costs whose headers fill a frame, beside one that has none."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from benchmarks.load import warm_up
from benchmarks.messages import Json, Session, new_request
from benchmarks.plan import Measurement
from benchmarks.scenarios.drain import drain

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.contestants import Contestant
    from benchmarks.messages import Request
    from benchmarks.plan import Plan
    from benchmarks.stage import Stage
    from benchmarks.wire import Message

REQUESTS: Final = 300
HEADERS: Final[dict[str, dict[str, Any]]] = {
    "none": {},
    "130,000 nothings": {"a": [None] * 130_000},
    "18,000 empty tables": {"a": [{}] * 18_000},
    "1,000 names": {f"{number:0>120}": None for number in range(1000)},
}


class _Filled(Session):
    """Our format, with headers that nobody asked for."""

    def __init__(self, usual: Json, headers: dict[str, Any]) -> None:
        self._usual = usual
        self._headers = headers

    def encode(self, request: Request) -> Message:
        message = self._usual.encode(request)
        message.properties.headers = self._headers or None
        return message


def measurements(stage: Stage, plan: Plan) -> Iterator[Measurement]:
    requests = plan.count(REQUESTS)
    for repetition, contestant in plan.turns([each for each in plan.contestants if each.is_ours]):
        yield Measurement(contestant.name, repetition, partial(_measure, stage, contestant, requests))


def _measure(stage: Stage, contestant: Contestant, requests: int) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    with stage.running(contestant) as run:
        warm_up(run)
        for kind, headers in HEADERS.items():
            filled = replace(contestant, format=_Filled(contestant.format, headers))
            drained = drain(replace(run, contestant=filled), [new_request() for _ in range(requests)])
            plain = rows[0] if rows else drained
            times = drained["cpu_us_per_request"] / plain["cpu_us_per_request"]
            rows.append({"headers": kind, "times_none": times} | drained)
    return rows
