"""What people read, laid out by rich: results on standard output, notices and progress on standard error.

Other people's text may be in all of it, and is made harmless to a terminal here, in one place.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from session_worker.cli.streams import UnwritableError
from session_worker.telemetry.printable import printable

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import ConsoleOptions, RenderableType
    from rich.segment import Segment

UNLIMITED = 1_000_000
"""Columns where there is no terminal: the reader of a pipe wants whole lines."""


class Terminal(Console):
    """Shows each text on one line; print several for several lines.

    A text that cannot be written raises UnwritableError if ``vital``, and is dropped otherwise.
    """

    def __init__(self, *, vital: bool, **how: Any) -> None:
        super().__init__(**how)
        self._vital = vital

    def print(self, *objects: Any, **how: Any) -> None:
        try:
            super().print(*objects, **how)
        except OSError as error:
            if self._vital:
                raise UnwritableError from error

    def render_str(self, text: str, **how: Any) -> Text:
        return super().render_str(printable(text), **how)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        if isinstance(renderable, Text):
            renderable = harmless(renderable, self)
        return super().render(renderable, options)

    def on_broken_pipe(self) -> None:
        """Called while the error is handled: leave it to ``print``, where rich would end the process."""
        raise


def results() -> Terminal:
    """Standard output."""
    return _terminal(stderr=False)


def notices() -> Terminal:
    """Standard error; a notice that cannot be written is dropped."""
    return _terminal(stderr=True)


def _terminal(*, stderr: bool) -> Terminal:
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else UNLIMITED
    return Terminal(vital=not stderr, file=stream, width=width, highlight=False, markup=False, emoji=False)


def confirmed(question: str) -> bool:
    """Ask the person at the terminal; any answer but yes is no. Ctrl-C interrupts, as everywhere."""
    notices().print(f"{question} [y/N]: ", end="", soft_wrap=True)
    try:
        return sys.stdin.readline().strip().lower() in {"y", "yes"}
    except KeyboardInterrupt:
        notices().print()
        raise


def harmless(text: Text, console: Console) -> Text:
    """The same text in the same colours, with what a terminal would obey spelled out."""
    if printable(text.plain) == text.plain:
        return text
    parts = [(printable(part.text), part.style or "") for part in text.render(console)]
    return Text.assemble(
        *parts, justify=text.justify, overflow=text.overflow, no_wrap=text.no_wrap, end=text.end
    )
