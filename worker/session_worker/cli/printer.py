"""A console on which everything is harmless to a terminal, whoever wrote it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from session_worker.cli.terminal import UnwritableError
from session_worker.telemetry.printable import printable

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import ConsoleOptions, RenderableType
    from rich.segment import Segment


class Printer(Console):
    """Shows each text on one line; print several for several lines. ``vital``: raise UnwritableError if a
    text cannot be written, which is dropped otherwise."""

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


def harmless(text: Text, console: Console) -> Text:
    """The same in the same colours, with what a terminal would obey spelled out."""
    if printable(text.plain) == text.plain:
        return text
    parts = [(printable(part.text), part.style or "") for part in text.render(console)]
    return Text.assemble(
        *parts, justify=text.justify, overflow=text.overflow, no_wrap=text.no_wrap, end=text.end
    )
