"""What goes to a pipe, and what stays on a terminal."""

from __future__ import annotations

from io import StringIO
from typing import TYPE_CHECKING

from rich.console import Console

from session_worker.cli import terminal
from session_worker.cli.progress import Progress

if TYPE_CHECKING:
    import pytest


def test_what_reads_a_pipe_gets_whole_lines(capsys: pytest.CaptureFixture[str]) -> None:
    """However long: they are cut into lines only where they are looked at."""
    prose = "a sentence that goes into a file " * 20
    terminal.results().print(prose)
    terminal.notices().print(prose)

    written = capsys.readouterr()

    assert [line.rstrip() for line in written.out.splitlines()] == [prose.rstrip()]
    assert [line.rstrip() for line in written.err.splitlines()] == [prose.rstrip()]


def test_of_a_progress_bar_nothing_stays_on_the_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last that a terminal gets moves to the bar's line and clears it."""
    screen = Console(file=(written := StringIO()), force_terminal=True, width=80)
    monkeypatch.setattr(terminal, "notices", lambda: screen)
    with Progress(1, what="letters") as progress:
        progress.advanced(1)
    text = written.getvalue()

    assert "letters" in text
    assert text.endswith("\r\x1b[1A\x1b[2K")
