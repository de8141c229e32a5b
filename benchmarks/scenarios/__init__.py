"""What is measured: for each scenario, the measurements it consists of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from benchmarks.scenarios import (
    drain,
    growth,
    hostile,
    latency,
    mix,
    neighbours,
    processes,
    profile,
    reads,
    recovery,
    telemetry,
    waiting,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from benchmarks.plan import Measurement, Plan
    from benchmarks.stage import Stage

SCENARIOS: Final[Mapping[str, Callable[[Stage, Plan], Iterator[Measurement]]]] = {
    "drain": drain.measurements,
    "latency": latency.measurements,
    "waiting": waiting.measurements,
    "mix": mix.measurements,
    "reads": reads.measurements,
    "neighbours": neighbours.measurements,
    "processes": processes.measurements,
    "growth": growth.measurements,
    "recovery": recovery.measurements,
    "telemetry": telemetry.measurements,
    "hostile": hostile.measurements,
    "profile": profile.measurements,
}
