"""Measurements as text: a line for each, and a table for each scenario."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from benchmarks.contestants import CONTESTANTS
from benchmarks.statistics import Summary, grouped, ratios, summary

if TYPE_CHECKING:
    from collections.abc import Sequence

YARDSTICK: Final = "echo"
KEYS: Final = (
    *(
        "in_flight",
        "wait_seconds",
        "load",
        "operation",
        "worker_processes",
        "telemetry",
        "ledger_rows",
        "ids",
        "headers",
        "where",
    ),
)
"""What tells the measurements of one contestant in one repetition apart."""
ORDER: Final = [contestant.name for contestant in CONTESTANTS]


@dataclass(frozen=True, slots=True)
class Column:
    """A value shown; `compared`: also as a ratio to the bare echo's in the same repetition."""

    value: str
    heading: str
    compared: bool = False


COLUMNS: Final = {
    "drain": (
        Column("requests_per_second", "requests/s", compared=True),
        Column("cpu_us_per_request", "CPU µs/request", compared=True),
        Column("peak_rss_mb", "peak memory, MB"),
        Column("generator_cpu_us_per_request", "generator's CPU, µs/request"),
    ),
    "latency": (
        Column("p50_ms", "p50, ms", compared=True),
        Column("p95_ms", "p95, ms"),
        Column("p99_ms", "p99, ms", compared=True),
    ),
    "waiting": (
        Column("requests_per_second", "requests/s"),
        Column("ideal_requests_per_second", "ideal"),
        Column("share_of_ideal", "share of the ideal"),
        Column("peak_rss_mb", "peak memory, MB"),
    ),
    "mix": (
        Column("p50_ms", "p50 of the fast, ms"),
        Column("p99_ms", "p99 of the fast, ms"),
        Column("slow_answered", "slow ones answered meanwhile"),
    ),
    "reads": (
        Column("requests_per_second", "requests/s"),
        Column("cpu_us_per_request", "CPU µs/request"),
    ),
    "neighbours": (
        Column("p50_ms", "p50 of the reads, ms"),
        Column("p99_ms", "p99 of the reads, ms"),
        Column("slow_answered", "slow ones answered meanwhile"),
    ),
    "processes": (
        Column("requests_per_second", "requests/s"),
        Column("cpu_us_per_request", "CPU µs/request"),
        Column("peak_rss_mb", "peak memory, MB"),
        Column("generator_cpu_us_per_request", "generator's CPU, µs/request"),
    ),
    "growth": (
        Column("requests_per_second", "requests/s"),
        Column("cpu_us_per_request", "CPU µs/request"),
    ),
    "telemetry": (
        Column("requests_per_second", "requests/s"),
        Column("share_of_off", "share of that with them off"),
        Column("cpu_us_per_request", "CPU µs/request"),
    ),
    "hostile": (
        Column("cpu_us_per_request", "CPU µs/request"),
        Column("times_none", "times that without headers"),
        Column("peak_rss_mb", "peak memory, MB"),
    ),
    "profile": (Column("cpu_us_per_request", "CPU µs/request"),),
    "recovery": (
        Column("outage_seconds", "broker down, s"),
        Column("seconds_to_first_answer", "first answer after, s"),
    ),
}


def line(scenario: str, row: dict[str, Any]) -> str:
    """One measurement."""
    return f"{scenario}: " + "  ".join(f"{name}={number(value)}" for name, value in row.items())


def table(scenario: str, rows: list[dict[str, Any]]) -> list[list[str]]:
    """Headings, then for each contestant (and level) the medians (least to most) over the repetitions."""
    if not rows:
        return []
    keys = [key for key in KEYS if key in rows[0]]
    headings = ["", *(key.replace("_", " ") for key in keys)]
    for column in COLUMNS[scenario]:
        headings += [column.heading, "to the echo's"] if column.compared else [column.heading]
    groups = grouped(rows, *keys, "contestant")
    found = [headings]
    for group in sorted(groups.values(), key=lambda group: _place(group[0], keys)):
        base = groups.get((*(group[0][key] for key in keys), YARDSTICK), [])
        cells = [group[0]["contestant"], *(number(group[0][key]) for key in keys)]
        for column in COLUMNS[scenario]:
            cells.append(spread(summary([row[column.value] for row in group])))
            if column.compared:
                ratio = ratios(group, base, column.value)
                cells.append(f"{ratio.median:.2f} ({ratio.least:.2f} to {ratio.most:.2f})" if ratio else "")
        found.append(cells)
    return found


def aligned(rows: list[list[str]]) -> str:
    """A table for a terminal."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def markdown(rows: list[list[str]], *, figures: bool) -> str:
    """A table for a page; with `figures` in all columns but the first."""
    head, *rest = rows
    lines = [head, ["---", *["---:" if figures else "---"] * (len(head) - 1)], *rest]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def spread(found: Summary) -> str:
    if found.least == found.most:
        return number(found.median)
    return f"{number(found.median)} ({number(found.least)} to {number(found.most)})"


def number(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _place(row: dict[str, Any], keys: Sequence[str]) -> tuple[Any, ...]:
    """Where a row belongs: by level, then contestant; a profile's places stay as they are."""
    name = row["contestant"]
    levels = [row[key] for key in keys if key != "where"]
    return (*levels, ORDER.index(name) if name in ORDER else len(ORDER), name)
