"""Telemetry: what logs, metrics and traces cost a drain."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from benchmarks.collector import collecting
from benchmarks.load import warm_up
from benchmarks.messages import new_request
from benchmarks.plan import Measurement, rotated
from benchmarks.scenarios.drain import drain

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.contestants import Contestant
    from benchmarks.plan import Plan
    from benchmarks.stage import Run, Stage

REQUESTS: Final = 5_000
OFF: Final = "off"


def measurements(stage: Stage, plan: Plan) -> Iterator[Measurement]:
    """Short drains of workers that run side by side: what the machine does meanwhile changes within seconds.
    Many workers: one differs from the next, which is the same, by more than telemetry costs."""
    for contestant in plan.contestants:
        if not contestant.is_ours or contestant.ledger != "postgresql":
            continue
        for start, _ in plan.turns([contestant], times=3):
            with ExitStack() as stack:
                runs = _start(stage, contestant, stack)
                for turn in range(len(runs)):
                    measure = partial(_measure, runs, plan.count(REQUESTS), turn)
                    yield Measurement(contestant.name, start * len(runs) + turn, measure)


def _start(stage: Stage, contestant: Contestant, stack: ExitStack) -> dict[str, Run]:
    watched = {"SESSION_WORKER_LOG_LEVEL": "info"}
    traced = {
        "SESSION_WORKER_TRACES": "true",
        "OTEL_EXPORTER_OTLP_ENDPOINT": stack.enter_context(collecting()),
        "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
    }
    runs = {}
    for level, settings in (
        (OFF, {}),
        ("with logs and metrics", watched | {"SESSION_WORKER_OPS_PORT": str(_free_port())}),
        ("with 1 % of the traces", traced | {"OTEL_TRACES_SAMPLER_ARG": "0.01"}),
        ("with all traces", traced | {"OTEL_TRACES_SAMPLER_ARG": "1"}),
    ):
        runs[level] = stack.enter_context(stage.running(contestant, settings=settings))
        warm_up(runs[level])
    return runs


def _measure(runs: dict[str, Run], requests: int, turn: int) -> list[dict[str, Any]]:
    """All in one measurement, in an order that turns: each is compared with the one without."""
    levels = rotated(list(runs), turn)
    rows = {level: drain(runs[level], [new_request() for _ in range(requests)]) for level in levels}
    return [
        {
            "telemetry": level,
            "share_of_off": rows[level]["requests_per_second"] / rows[OFF]["requests_per_second"],
        }
        | rows[level]
        for level in runs
    ]


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        port: int = found.getsockname()[1]
        return port
