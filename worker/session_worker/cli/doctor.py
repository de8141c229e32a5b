"""``doctor``: is this set-up in order?"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING

from session_worker import settings
from session_worker.cli import interrupts, streams, terminal
from session_worker.loop import PlainLoop
from session_worker.operators.doctor import State, examine
from session_worker.operators.doctor.local import invalid_settings
from session_worker.operators.doctor.result import folded
from session_worker.settings import InvalidSettingsError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from session_worker.operators.doctor import Result

WORDS = {
    State.FAILED: ("FAIL", "bold red"),
    State.WARNING: ("WARN", "yellow"),
    State.SKIPPED: ("skip", "dim"),
    State.OK: ("ok", "green"),
}
"""The first word of a line and its style, in the order of the lines."""


def doctor(*, json: bool, **flags: str | None) -> int:
    """Print one line for each check. Return 1 if one failed, 2 if the settings are invalid."""
    try:
        loaded = settings.load(**flags)
    except InvalidSettingsError as error:
        _show(invalid_settings(error), json=json)
        return 2
    with asyncio.Runner(loop_factory=PlainLoop) as runner, terminal.notices().status("Looking …"):
        results = interrupts.run(runner, examine(loaded))
    _show(results, json=json)
    return 1 if any(result.state is State.FAILED for result in results) else 0


def _show(results: Sequence[Result], *, json: bool) -> None:
    if json:
        for result in results:
            streams.write_document(result.document())
        return
    from rich.text import Text

    from session_worker.cli.views.listing import Listing

    shown = sorted(folded(results), key=lambda result: list(WORDS).index(result.state))
    lines = Listing("", "", "")
    for result in shown:
        word, style = WORDS[result.state]
        fix = f"; fix: {result.fix}" if result.fix else ""
        lines.add(Text(f"{word:<4}", style=style), result.name, result.found + fix)
    terminal.results().print(lines)
    states = Counter(result.state for result in shown)
    out = terminal.notices()
    out.print(", ".join(_counted(states[state], state) for state in WORDS if states[state]))
    if shown[0].fix:
        out.print(f"First, {shown[0].name}: {shown[0].fix}")


def _counted(count: int, state: State) -> str:
    return f"{count} {state}{'s' if state is State.WARNING and count > 1 else ''}"
