"""Rows of cells. Where a terminal is too narrow for all of them, nothing is cut or dropped."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from session_worker.cli.terminal import harmless
from session_worker.telemetry.printable import printable

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence

    from rich.console import Console, ConsoleOptions

GAP = "  "
INDENT = "    "
LEAST = 32
"""Columns that a long last cell needs; it is the only one whose words are wrapped."""
LEAST_OF_FACTS = 20


class Listing:
    """The columns that fit stand on a row's first line, the others on a second, indented one. ``brief``: for
    a screen of limited height, the end of the last cell is left out instead of wrapped."""

    def __init__(
        self, *columns: str, right: Collection[str] = (), brief: bool = False, least: int = LEAST
    ) -> None:
        self._columns = columns
        self._least = least
        self._brief = brief
        self._right = [column in right for column in columns]
        self._rows: list[Sequence[Text]] = []

    def add(self, *cells: str | Text) -> None:
        self._rows.append([cell if isinstance(cell, Text) else Text(printable(cell)) for cell in cells])

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        heads = [[Text(column, style="bold") for column in self._columns]] if any(self._columns) else []
        rows = [*heads, *([harmless(cell, console) for cell in row] for row in self._rows)]
        widths = [max(cell.cell_len for cell in column) for column in zip(*rows, strict=True)]
        fitting = self._fitting(widths, options.max_width)
        for row in rows:
            yield from self._lines(console, row, widths, fitting, options.max_width)

    def _fitting(self, widths: Sequence[int], room: int) -> int:
        """How many columns the first line takes: at least one."""
        start = 0
        for number, width in enumerate(widths):
            last = number == len(widths) - 1
            if number and start + (min(width, self._least) if last else width) > room:
                return number
            start += width + len(GAP)
        return len(widths)

    def _lines(
        self, console: Console, row: Sequence[Text], widths: Sequence[int], fitting: int, room: int
    ) -> Iterator[Text]:
        first, rest = row[:fitting], [cell for cell in row[fitting:] if cell]
        # Spaces after the last cell are invisible, but take room.
        needed = [*widths[:-1], widths[-1] if self._right[-1] else 0]
        padded = [
            _padded(cell, width, right=right)
            for cell, width, right in zip(first, needed, self._right, strict=False)
        ]
        if fitting == len(row):
            yield from self._hanging(console, padded[:-1], padded[-1], room)
            return
        yield _joined(padded)
        if rest:
            yield from self._hanging(console, [Text(INDENT[len(GAP) :])], _joined(rest), room)

    def _hanging(self, console: Console, before: Sequence[Text], cell: Text, room: int) -> Iterator[Text]:
        """``cell`` behind what stands before it; its further lines begin below its first one."""
        head = _joined([*before, Text()], strip=False)
        rest = max(room - head.cell_len, 1)
        if self._brief:
            cell.truncate(rest, overflow="ellipsis")
        for number, line in enumerate(cell.wrap(console, rest) or [Text()]):
            yield _joined([head if number == 0 else Text(" " * head.cell_len), line], gap="")


def facts(rows: Iterable[tuple[str, str | Text]]) -> Listing:
    """List names and their values."""
    listing = Listing("", "", least=LEAST_OF_FACTS)
    for name, value in rows:
        listing.add(Text(name, style="dim"), value)
    return listing


def _joined(cells: Sequence[Text], *, gap: str = GAP, strip: bool = True) -> Text:
    line = Text(gap).join(cells)
    if strip:  # a line that goes into a pipe ends with its last word
        line.rstrip()
    return line


def _padded(cell: Text, width: int, *, right: bool) -> Text:
    padded, missing = cell.copy(), width - cell.cell_len
    if right:
        padded.pad_left(missing)
    else:
        padded.pad_right(missing)
    return padded
