"""Telemetry: what logs, metrics and traces cost a drain."""

from __future__ import annotations

import socket
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from benchmarks.collector import collecting
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
OFF: Final = "off"


def measurements(stage: Stage, plan: Plan) -> Iterator[Measurement]:
    requests = plan.count(REQUESTS)
    able = [each for each in plan.contestants if each.is_ours and each.ledger == "postgresql"]
    for repetition, contestant in plan.turns(able, times=3):
        yield Measurement(
            contestant.name, repetition, partial(_measure, stage, contestant, requests, repetition)
        )


def _measure(stage: Stage, contestant: Contestant, requests: int, repetition: int) -> list[dict[str, Any]]:
    """All in one measurement, in an order that turns: each is compared with the one without."""
    with collecting() as collector:
        watched = {"SESSION_WORKER_LOG_LEVEL": "info", "SESSION_WORKER_OPS_PORT": str(_free_port())}
        levels = {
            OFF: {},
            "with logs and metrics": watched,
            "with traces too": watched
            | {"SESSION_WORKER_TRACES": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": collector},
        }
        start = repetition % len(levels)
        turn = [*levels, *levels][start : start + len(levels)]
        rows = {level: _drain(stage, contestant, requests, levels[level]) for level in turn}
    base = rows[OFF]
    return [
        {"telemetry": level, "share_of_off": row["requests_per_second"] / base["requests_per_second"]} | row
        for level, row in rows.items()
    ]


def _drain(stage: Stage, contestant: Contestant, requests: int, settings: dict[str, str]) -> dict[str, Any]:
    with stage.running(contestant, settings=settings) as run:
        warm_up(run)
        return drain(run, [new_request() for _ in range(requests)])


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        port: int = found.getsockname()[1]
        return port
