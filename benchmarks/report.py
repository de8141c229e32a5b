"""`python -m benchmarks.report RESULTS.json [LATER.json …]`: write docs/benchmarks.md and its pictures from
measurements; what was measured again later takes the place of what was there."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Final

from benchmarks import plots, show
from benchmarks.bars import bars
from benchmarks.contestants import CONTESTANTS

DOCS: Final = Path(__file__).parents[1] / "docs"
INTRODUCTION: Final = """\
`make bench` wrote this page from `{results}`: every figure on it was measured in one run, unless its
section says that it was measured again.

Every contestant is a program in `benchmarks/peers/`, written the way its own documentation recommends. It
gets the same requests, from its own queue on the same private broker. Repetitions are interleaved: each runs
all contestants once, in rotating order. A cell is the median of {repetitions} repetitions (twice as many for
growth; nine times as many, and short ones, for telemetry, where differences are small), with the minimum and
the maximum; a ratio to the bare echo is computed within each repetition, before the median. Throughput is
that of one worker process, unless the table below says that a contestant has more. A scenario that is missing
was not measured, or the run ended before it.
"""
AGAIN: Final = """\
Measured again by itself: {started}, commit {commit}, {processor} with {cores} cores, `{command}`.
"""
CONDITIONS: Final = """
RabbitMQ and PostgreSQL are private, on the same machine, with their default durability: quorum queues, fsync
on. PostgreSQL is configured as [operations](operations.md#postgresql) advises (`shared_buffers` 2 GB,
`max_wal_size` 16 GB, `checkpoint_timeout` 30 min, `wal_compression` lz4), for every contestant that uses it.
`make bench` repeats everything; `.venv-bench/bin/python -m benchmarks.run --help` shows how to run a part.
This run was

```
{command}
```
"""
TITLES: Final = {
    "drain": "Drain",
    "latency": "Latency",
    "waiting": "Slow handlers",
    "mix": "Fast beside slow",
    "reads": "Reads",
    "neighbours": "Beside a slow operation",
    "processes": "Several processes",
    "growth": "Growth",
    "recovery": "Recovery",
    "telemetry": "Logs, metrics, traces",
    "hostile": "Hostile headers",
    "profile": "Where the time goes",
}
TEXTS: Final = {
    "drain": """\
The contestant is started, warmed up and frozen (SIGSTOP). Its queue is filled, with every request confirmed;
then it is resumed, and the clock runs until the last reply. CPU is that of all processes of the contestant,
without broker and database, and includes half a second after the last reply. The load generator's own CPU
time is shown too, because it runs on the same cores. The picture leaves out `c-echo`, the ceiling.
""",
    "latency": """\
A closed loop with a fixed number of requests in flight: each reply triggers a new request. `two-commits-…`
are an insert and an update alone on the same database, each committed: the least that durability costs.
""",
    "waiting": """\
A drain with concurrency 1,000 and a handler that waits. The ideal is 1,000 requests per waiting time, or
what the same process does when nothing waits, whichever is less.
""",
    "mix": """\
Requests that take 1 ms, 16 in flight: alone, and beside 250 a second that take 2 s each. Concurrency 1,000.
""",
    "reads": """\
A drain of `create_session`, then one of `get_session` for sessions that are there, by the same worker.
""",
    "neighbours": """\
`get_session` with 16 in flight: alone, and beside 128 `create_session` a second whose handlers take 2 s each,
so that all of its 256 slots are taken.
""",
    "processes": """\
A drain by `run --processes N` on one PostgreSQL ledger. Memory and CPU time are those of all processes and
the supervisor together. Broker, database and load generator run on the same cores: with fewer cores than
processes, more processes only share what is left.
""",
    "growth": """\
A drain with a ledger that already holds the given number of requests. Their ids are random; those of the
drained requests are either in time order (UUIDs of version 7, as the client generates them) or random as
well. Each random id touches another page of two indexes.
""",
    "recovery": """\
The broker is stopped and started again. The time runs from the moment it is up to the first answer to a new
request; 60 s or more means that none came.
""",
    "telemetry": """\
A drain with only warnings in the log; with a line for each request and metrics; and with traces of one
request in a hundred or of each, sent to a collector that discards them. Four workers side by side, started
anew after every fourth repetition: two that are the same may differ by some per cent.
""",
    "hostile": """\
A drain of requests whose headers fill a frame of 131 kB, beside one of requests without. The peak of memory
is that of all drains until then.
""",
    "profile": """\
A drain sampled by py-spy. Samples that only wait are left out; the CPU time of the drain is divided among
the others. The standard library and the interpreter count towards the file that called them. The limit, with
all of this removed, is `c-echo` above: what the broker delivers when the program on the other side costs
next to nothing.
""",
}
PROMISES: Final = ("validated", "outcome", "duplicates", "delivery", "processes")


def main(path: Path, *later: Path) -> None:
    results = json.loads(path.read_text())
    notes: dict[str, str] = {}
    for again in (json.loads(each.read_text()) for each in later):
        results["scenarios"] |= again["scenarios"]
        notes |= dict.fromkeys(again["scenarios"], AGAIN.format(**again, **again["machine"]))
    page = DOCS / "benchmarks.md"
    page.write_text("\n".join(_page(results, path, notes)))
    print(f"{page} is written.")


def _page(results: dict[str, Any], path: Path, notes: dict[str, str]) -> list[str]:
    scenarios = {name: rows for name in TITLES if (rows := results["scenarios"].get(name))}
    resolved = path.resolve()
    name = resolved.relative_to(DOCS.parent) if resolved.is_relative_to(DOCS.parent) else path.name
    parts = [
        "# Benchmarks\n",
        INTRODUCTION.format(results=name, repetitions=results["repetitions"]),
        "## In short\n",
        show.markdown(
            [["", "measured", "asked for", "met"], *(bar.cells() for bar in bars(scenarios))], figures=True
        ),
        "\n## What each one promises\n",
        show.markdown(_promises(scenarios), figures=False),
    ]
    for scenario, rows in scenarios.items():
        parts += [
            f"\n## {TITLES[scenario]}\n",
            TEXTS[scenario],
            *([notes[scenario]] if scenario in notes else []),
            show.markdown(show.table(scenario, rows), figures=True),
        ]
        if scenario in plots.PLOTS:
            picture = Path("img") / f"benchmarks-{scenario}.png"
            plots.PLOTS[scenario](rows, DOCS / picture)
            parts.append(f"\n![{TITLES[scenario]}]({picture})")
    return [*parts, *_conditions(results)]


def _promises(scenarios: dict[str, list[dict[str, Any]]]) -> list[list[str]]:
    present = {row["contestant"] for rows in scenarios.values() for row in rows}
    entrants = [each for each in CONTESTANTS if each.name in present]
    return [
        ["", "what it is", "validated", "outcome kept", "a duplicate is", "delivery", "processes"],
        *([each.name, each.title, *(getattr(each.promise, name) for name in PROMISES)] for each in entrants),
    ]


def _conditions(results: dict[str, Any]) -> list[str]:
    machine = dict(results["machine"])
    versions = ", ".join(f"{name} {version}" for name, version in machine.pop("versions").items())
    facts = [[name.replace("_", " "), show.number(value)] for name, value in machine.items()]
    table = [["", ""], ["started", results["started"]], *facts, ["versions", versions]]
    failures = [f"- {_in_short(failure)}" for failure in results["failures"]]
    return [
        "\n## Where and how\n",
        show.markdown(table, figures=False),
        CONDITIONS.format(command=results["command"]),
        *(["Left out, because they failed:\n", *failures, ""] if failures else []),
    ]


def _in_short(failure: str) -> str:
    """Without the log of a contestant, but for its last words."""
    first, *rest = failure.splitlines()
    return f"{first.partition(': {')[0]}: {rest[-1]}" if rest else first


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
