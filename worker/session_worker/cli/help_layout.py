"""How ``--help`` is laid out: no word is broken, however narrow the terminal is."""

from __future__ import annotations

import shutil
import sys
import textwrap
from typing import TYPE_CHECKING

from typer.core import TyperCommand

from session_worker.cli import streams

if TYPE_CHECKING:
    from collections.abc import Sequence

WIDEST = 80
LEAST = 24
"""An option's meaning stands below it if there are fewer columns beside it."""


class Formatter(TyperCommand.context_class.formatter_class):  # type: ignore[misc,name-defined]
    def __init__(self, indent_increment: int = 2, *_: object, **__: object) -> None:
        super().__init__(indent_increment, min(shutil.get_terminal_size().columns, WIDEST) - 2)

    def getvalue(self) -> str:
        """The whole text. Click writes characters that the encoding lacks as UTF-8, whatever reads them."""
        return streams.encodable(super().getvalue(), sys.stdout)

    def write_text(self, text: str) -> None:
        indent = " " * self.current_indent
        self.write("\n\n".join(_fill(part, self.width, indent) for part in text.split("\n\n")) + "\n")

    def write_dl(self, rows: Sequence[tuple[str, str]], col_max: int = 30, col_spacing: int = 2) -> None:
        """Write each meaning beside its name, or below it if a word would not fit there."""
        start = self.current_indent + min(max(len(name) for name, _ in rows), col_max) + col_spacing
        for name, text in rows:
            head = f"{'':{self.current_indent}}{name}"
            room = self.width - start
            beside = room >= max(LEAST, *map(len, text.split()), 0) and len(head) + col_spacing <= start
            if beside:
                self.write(f"{head:{start}}{_fill(text, self.width, ' ' * start).lstrip()}".rstrip() + "\n")
            else:
                self.write(f"{head}\n{_fill(text, self.width, ' ' * (self.current_indent + 4))}\n")


def _fill(text: str, width: int, indent: str) -> str:
    return textwrap.fill(
        " ".join(map(str.strip, text.splitlines())),
        width,
        initial_indent=indent,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
