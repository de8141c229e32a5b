"""Profile: where the microseconds of a drain go."""

from __future__ import annotations

import signal
import subprocess
import sys
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from benchmarks.load import warm_up
from benchmarks.messages import new_request
from benchmarks.plan import Measurement
from benchmarks.process import ContestantError
from benchmarks.samples import by_place
from benchmarks.scenarios.drain import drain

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.contestants import Contestant
    from benchmarks.plan import Plan
    from benchmarks.stage import Run, Stage

REQUESTS: Final = 20_000
SAMPLES_PER_SECOND: Final = 100
LEAST_SHARE: Final = 0.01
"""Places with less of the time are shown together."""
PY_SPY: Final = Path(sys.executable).with_name("py-spy")


def measurements(stage: Stage, plan: Plan) -> Iterator[Measurement]:
    requests = plan.count(REQUESTS)
    for repetition, contestant in plan.turns([each for each in plan.contestants if each.is_ours]):
        yield Measurement(contestant.name, repetition, partial(_measure, stage, contestant, requests))


def _measure(stage: Stage, contestant: Contestant, requests: int) -> list[dict[str, Any]]:
    """The CPU time of a drain by the share of samples; being sampled costs the worker no CPU time."""
    samples = stage.folder / "samples"
    with stage.running(contestant) as run:
        warm_up(run)
        with _sampled(run, samples):
            drained = drain(run, [new_request() for _ in range(requests)])
    places = by_place(samples.read_text())
    total = places.total()
    if not total:
        raise ContestantError("py-spy saw nothing")
    shown = {place: count for place, count in places.most_common() if count >= LEAST_SHARE * total}
    shown["the rest"] = total - sum(shown.values())
    price = drained["cpu_us_per_request"]
    return [{"where": place, "cpu_us_per_request": price * count / total} for place, count in shown.items()]


@contextmanager
def _sampled(run: Run, samples: Path) -> Iterator[None]:
    if not PY_SPY.exists():
        raise ContestantError(f"{PY_SPY} is not there; `make bench` installs it")
    command: list[str | Path] = [
        PY_SPY,
        "record",
        "--pid",
        str(run.process.pid),
        "--rate",
        str(SAMPLES_PER_SECOND),
    ]
    command += ["--native", "--full-filenames", "--format", "raw", "--output", samples]
    sampler = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        sampler.send_signal(signal.SIGINT)  # it writes what it saw
        sampler.wait(60)
