"""What one run of the benchmarks measures, and in which order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from benchmarks.contestants import Contestant

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Plan:
    """`requests` replaces every scenario's own number, if given; `ledger_rows` are for growth."""

    contestants: Sequence[Contestant]
    repetitions: int
    requests: int | None
    ledger_rows: Sequence[int]

    def turns(self, entrants: Sequence[T], times: int = 1) -> Iterator[tuple[int, T]]:
        """Every repetition goes once through all, each starting with another: what the machine does
        meanwhile, and who went before, hits them alike. `times`: so many more repetitions than usual,
        where small differences are looked for."""
        for repetition in range(self.repetitions * times):
            for entrant in rotated(entrants, repetition):
                yield repetition, entrant

    def count(self, requests: int) -> int:
        return self.requests or requests


def rotated(entrants: Sequence[T], turn: int) -> list[T]:
    """All of them, each turn beginning with the next one."""
    start = turn % max(1, len(entrants))
    return [*entrants[start:], *entrants[:start]]


@dataclass(frozen=True, slots=True)
class Measurement:
    """Something to measure; `measure` gives rows of plain numbers, their units in their names."""

    contestant: str
    repetition: int
    measure: Callable[[], list[dict[str, Any]]]
