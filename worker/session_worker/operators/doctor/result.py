"""What one check found."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from session_client.net.diagnosis import DiagnosedError

CHECK_SECONDS = 8.0
"""How long one check may take. Connecting may take as long as it may take a worker."""


class State(StrEnum):
    """``WARNING``: a worker can work all the same. ``SKIPPED``: another failure must be fixed first."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Result:
    """``found`` is for people, and holds no password. ``fix``: what to do, where anything is to be done."""

    name: str
    state: State
    found: str
    fix: str | None = None

    def document(self) -> dict[str, str | None]:
        """The result as a JSON document, whose field names are part of the interface."""
        return asdict(self)


def folded(results: Sequence[Result]) -> list[Result]:
    """Shorten the results for people: tell a fix that several need once, and make one result of exchange and
    queues if all are missing."""
    parts = [result for result in results if result.name.startswith(("exchange ", "queue "))]
    if len(parts) > 1 and all(part.found == "missing" for part in parts):
        one = replace(parts[0], name="exchange, queues", found=f"none of the {len(parts)} exist")
        results = [one if result is parts[0] else result for result in results if result not in parts[1:]]
    first: dict[str | None, str] = {None: ""}  # to whom each fix was told
    return [_as_before(result, first.setdefault(result.fix, result.name)) for result in results]


def _as_before(result: Result, told: str) -> Result:
    if result.fix is None or told == result.name:
        return result
    return replace(result, fix=f"do the same as for {told}")


def ok(name: str, found: str) -> Result:
    return Result(name, State.OK, found)


def skipped(name: str, why: str) -> Result:
    return Result(name, State.SKIPPED, why)


def warning(name: str, found: str, fix: str) -> Result:
    return Result(name, State.WARNING, found, fix)


def failed(name: str, found: str, fix: str) -> Result:
    return Result(name, State.FAILED, found, fix)


def from_error(name: str, error: DiagnosedError, fix: str) -> Result:
    """The failure that ``error`` diagnoses; ``fix`` is for those that do not say what to do."""
    return failed(name, error.what, error.fix or fix)


def no_answer(name: str, where: str) -> Result:
    """The failure of a check that did not end in time."""
    return failed(
        name,
        f"{where} did not answer within {CHECK_SECONDS:g} s",
        f"look into the log of {where}, and at its load",
    )
