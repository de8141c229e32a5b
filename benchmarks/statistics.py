"""Medians, spreads and paired ratios."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from statistics import median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


@dataclass(frozen=True, slots=True)
class Summary:
    """The median of some repetitions, the least and the most."""

    median: float
    least: float
    most: float


def summary(values: Sequence[float]) -> Summary:
    return Summary(median(values), min(values), max(values))


def quantile(values: Iterable[float], share: float) -> float:
    """The smallest value that `share` of all values do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, ceil(share * len(ordered)) - 1)]


def grouped(rows: Iterable[dict[str, Any]], *keys: str) -> dict[tuple[Any, ...], list[dict[str, Any]]]:
    """Rows by the values of `keys`."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(tuple(row[key] for key in keys), []).append(row)
    return groups


def ratios(rows: Iterable[dict[str, Any]], base: Iterable[dict[str, Any]], value: str) -> Summary | None:
    """`value` of each row divided by that of the base in the same repetition."""
    yardstick = {row["repetition"]: row[value] for row in base}
    found = [row[value] / yardstick[row["repetition"]] for row in rows if yardstick.get(row["repetition"])]
    return summary(found) if found else None
