"""`python -m benchmarks.run`: measure, print, and write what was measured as JSON."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import contestants, machine, show
from benchmarks.plan import Plan
from benchmarks.process import ContestantError
from benchmarks.scenarios import SCENARIOS
from benchmarks.stage import Stage
from benchmarks.wire import WireError
from tests.support.servers import SandboxError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.plan import Measurement


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # and leave no process behind
    try:
        entrants = contestants.find(options.contestants)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    plan = Plan(
        [entrant for entrant in entrants if not _is_missing(entrant)],
        options.repetitions,
        options.requests,
        options.ledger_rows,
    )
    try:
        failures = _run(plan, options.scenarios or list(SCENARIOS), options.out)
    except SandboxError as error:
        print(error, file=sys.stderr)
        return 1
    return 1 if failures else 0


def _run(plan: Plan, names: Sequence[str], out: Path | None) -> list[str]:
    """Measure; what failed is left out of the results and returned."""
    failures: list[str] = []
    with Stage() as stage:
        results: dict[str, Any] = {
            "started": time.strftime("%Y-%m-%d %H:%M:%S %z"),
            "command": " ".join(["python", "-m", "benchmarks.run", *sys.argv[1:]]),
            "repetitions": plan.repetitions,
            "machine": machine.describe(stage),
            "failures": failures,
            "scenarios": {},
        }
        for name in names:
            rows: list[dict[str, Any]] = []
            results["scenarios"][name] = rows
            for measurement in SCENARIOS[name](stage, plan):
                try:
                    found = measurement.measure()
                except (ContestantError, WireError) as error:
                    failures.append(f"{name}, {measurement.contestant}: {error}")
                    print(failures[-1], file=sys.stderr, flush=True)
                    continue
                for row in found:
                    rows.append(_labelled(measurement, row))
                    print(show.line(name, rows[-1]), flush=True)
                _write(results, out)
            if rows:
                print(
                    f"\n{name}, median (least to most)\n{show.aligned(show.table(name, rows))}\n", flush=True
                )
    return failures


def _labelled(measurement: Measurement, row: dict[str, Any]) -> dict[str, Any]:
    return {"contestant": measurement.contestant, "repetition": measurement.repetition} | row


def _write(results: dict[str, Any], out: Path | None) -> None:
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(results, indent=1) + "\n")


def _is_missing(contestant: contestants.Contestant) -> bool:
    missing = not Path(contestant.argv[0]).exists()
    if missing:
        print(
            f"{contestant.name} is left out: {contestant.argv[0]} is not there; "
            "with a C compiler and librabbitmq-dev `make bench` builds it."
        )
    return missing


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__)
    parser.add_argument(
        "scenarios", nargs="*", choices=[*SCENARIOS, []], metavar="SCENARIO", help=", ".join(SCENARIOS)
    )
    parser.add_argument(
        "--contestants",
        type=lambda names: names.split(","),
        default=[contestant.name for contestant in contestants.CONTESTANTS],
        help="names separated by commas; all by default",
    )
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--requests", type=int, help="in place of each scenario's own number")
    parser.add_argument(
        "--ledger-rows",
        type=lambda sizes: [int(float(size)) for size in sizes.split(",")],
        default=[0, 100_000, 1_000_000, 10_000_000],
        help="sizes of the ledger for `growth`; 0,1e5,1e6,1e7 by default, SQLite to 1e6 (1e7 take 30 GB)",
    )
    parser.add_argument("--out", type=Path, help="where to write the results as JSON")
    return parser


if __name__ == "__main__":
    sys.exit(main())
