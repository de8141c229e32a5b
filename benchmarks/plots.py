"""Measurements as pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import matplotlib as mpl
from matplotlib import pyplot

from benchmarks.bars import CEILING
from benchmarks.show import ORDER
from benchmarks.statistics import grouped, summary

if TYPE_CHECKING:
    from pathlib import Path

Row = dict[str, Any]
OURS: Final = "#1f6f8b"
OTHERS: Final = "#b8b8b8"
DPI: Final = 120
IN_LINES: Final = ("echo", "ours-sqlite", "ours-postgresql", "faststream", "faststream-postgresql", "c-echo")
"""Those whose lines are drawn; the tables have all."""

mpl.use("Agg")


def drain(rows: list[Row], path: Path) -> None:
    """Throughput and CPU time of each contestant but the ceiling, beside which nobody else could be seen:
    medians, least to most as a line."""
    groups = grouped(rows, "contestant")
    names = [name for name in reversed(ORDER) if (name,) in groups and name != CEILING]
    figure, axes = pyplot.subplots(1, 2, figsize=(11, 0.45 * len(names) + 1.2), sharey=True)
    columns = (("requests_per_second", "requests/s"), ("cpu_us_per_request", "CPU µs/request"))
    for axis, (value, heading) in zip(axes, columns, strict=True):
        found = [summary([row[value] for row in groups[name,]]) for name in names]
        medians = [each.median for each in found]
        spreads = [
            [each.median - each.least for each in found],
            [each.most - each.median for each in found],
        ]
        colours = [OURS if name.startswith("ours-") else OTHERS for name in names]
        axis.barh(names, medians, xerr=spreads, color=colours, ecolor="#444444")
        axis.set_title(heading)
        axis.spines[["top", "right"]].set_visible(False)
    _save(figure, path)


def latency(rows: list[Row], path: Path) -> None:
    """p50 and p99 by requests in flight, both axes logarithmic."""
    figure, axes = pyplot.subplots(1, 2, figsize=(11, 4.5), sharey=True)
    for axis, value in zip(axes, ("p50_ms", "p99_ms"), strict=True):
        _lines(axis, rows, "in_flight", value)
        axis.set(xscale="log", yscale="log", title=f"{value[:3]}, ms", xlabel="requests in flight")
        levels = sorted({row["in_flight"] for row in rows})
        axis.set_xticks(levels, [str(level) for level in levels])
    axes[0].legend(frameon=False)
    _save(figure, path)


def processes(rows: list[Row], path: Path) -> None:
    """Throughput by the number of processes."""
    figure, axis = pyplot.subplots(figsize=(6, 4))
    _lines(axis, rows, "worker_processes", "requests_per_second")
    levels = sorted({row["worker_processes"] for row in rows})
    axis.set(xlabel="processes", title="requests/s", xticks=levels, xlim=(0, None), ylim=(0, None))
    axis.legend(frameon=False)
    _save(figure, path)


def growth(rows: list[Row], path: Path) -> None:
    """Throughput by the number of requests in the ledger."""
    figure, axis = pyplot.subplots(figsize=(6, 4))
    for ids, style in (("in order", "-"), ("random", "--")):
        of_these = [row for row in rows if row["ids"] == ids]
        _lines(axis, of_these, "ledger_rows", "requests_per_second", f", ids {ids}", style)
    axis.set(xscale="symlog", xlabel="requests in the ledger", title="requests/s", ylim=(0, None))
    axis.set_xlim(left=0)
    axis.legend(frameon=False)
    _save(figure, path)


PLOTS: Final = {"drain": drain, "latency": latency, "processes": processes, "growth": growth}


def _lines(axis: Any, rows: list[Row], key: str, value: str, qualifier: str = "", style: str = "-") -> None:
    for name in IN_LINES:
        levels = grouped([row for row in rows if row["contestant"] == name], key)
        if levels:
            points = sorted(
                (level, summary([row[value] for row in group])) for (level,), group in levels.items()
            )
            axis.plot(
                [level for level, _ in points],
                [found.median for _, found in points],
                marker="o",
                label=f"{name}{qualifier}",
                linestyle=style,
                linewidth=2.5 if name.startswith("ours-") else 1.2,
            )
    axis.spines[["top", "right"]].set_visible(False)


def _save(figure: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.tight_layout()
    figure.savefig(path, dpi=DPI, metadata={"Software": None})
    pyplot.close(figure)
