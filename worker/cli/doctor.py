"""``doctor``: is this set-up in order?"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING

from pydantic import ValidationError

from worker import settings
from worker.cli import console, interrupts, problems
from worker.doctor import Result, State, examine

if TYPE_CHECKING:
    from collections.abc import Sequence

WORDS = {
    State.OK: ("ok", "green"),
    State.WARNING: ("WARN", "yellow"),
    State.FAILED: ("FAIL", "bold red"),
    State.SKIPPED: ("skip", "dim"),
}
"""What stands at the beginning of a line, and how a terminal shows it."""


def doctor(*, json: bool, **flags: str | None) -> int:
    """Print what was found, one line a check; 1 when a check failed, 2 when the settings are refused."""
    try:
        loaded = settings.load(**flags)
    except ValidationError as error:
        fix = "correct it; docs/settings.md has them all"
        _show(
            [Result("settings", State.FAILED, text, fix) for text in problems.refused_settings(error)],
            json=json,
        )
        return 2
    with asyncio.Runner() as runner, console.notices().status("Looking …"):
        results = interrupts.run(runner, examine(loaded))
    _show(results, json=json)
    return 1 if any(result.state is State.FAILED for result in results) else 0


def _show(results: Sequence[Result], *, json: bool) -> None:
    if json:
        for result in results:
            console.document(asdict(result))
        return
    from rich.text import Text

    out = console.results()
    width = max(len(result.name) for result in results)
    for result in results:
        word, style = WORDS[result.state]
        fix = f"; fix: {result.fix}" if result.fix else ""
        line = f"  {result.name:<{width}}  {result.found}{fix}"
        out.print(Text.assemble((f"{word:<4}", style), console.printable(line)), soft_wrap=True)
    states = Counter(result.state for result in results)
    console.notices().print(", ".join(f"{states[state]} {state}" for state in State if states[state]))
