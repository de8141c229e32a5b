"""The progress bar of requests under way: how many, how fast, how long each takes. On standard error."""

from __future__ import annotations

from collections import deque
from statistics import median
from typing import TYPE_CHECKING, Self

from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bar
from rich.table import Column

from session_worker.cli import terminal
from session_worker.settings import durations

if TYPE_CHECKING:
    from rich.progress import Task

RECENT = 200
"""Answers over which the latency shown is taken."""


class Progress:
    """A context manager; shows nothing where there is no terminal or ``shown`` is False."""

    def __init__(self, total: int, *, shown: bool = True, what: str = "answers") -> None:
        screen = terminal.notices()
        self._bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(table_column=Column(no_wrap=True)),  # else a long note cuts it off
            TextColumn("{task.fields[note]}"),
            console=screen,
            disable=not (shown and screen.is_terminal),
            expand=True,
            transient=True,  # what was done is said in words afterwards
        )
        self._task = self._bar.add_task(what, total=total, note="")
        self._recent: deque[float] = deque(maxlen=RECENT)
        self._failed = 0

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if not self._bar.disable:  # else older versions of rich print an empty line
            self._bar.stop()

    def answered(
        self, seconds: float | None = None, *, failed: bool = False, note: str | None = None
    ) -> None:
        """Count an answer. ``seconds``: its latency, if worth showing. ``note`` replaces the figures."""
        if seconds is not None:
            self._recent.append(seconds)
        self._failed += failed
        if not self._bar.disable:
            self._bar.update(self._task, advance=1, note=note or self._note(self._bar.tasks[0]))

    def advanced(self, count: int) -> None:
        """Count ``count`` more."""
        self._bar.update(self._task, advance=count)

    def _note(self, task: Task) -> str:
        rate = (task.completed + 1) / task.elapsed if task.elapsed else 0.0
        latency = f" p50 {durations.text(median(self._recent))}" if self._recent else ""
        return f"{rate:.0f}/s{latency}" + (f" {self._failed} failed" if self._failed else "")
