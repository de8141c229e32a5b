"""Turn whatever somebody logs into values that JSON has. No value fails a line or makes it endless."""

from __future__ import annotations

import math
import sys
import traceback
from collections import deque
from collections.abc import Mapping
from datetime import date, time
from enum import Enum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

ROOM = 100_000
"""Characters of a line before it is cut to fit: so many that no secret is cut in two before it is masked."""
PRICE = 50
"""Characters that each value costs besides its own: an empty value is not free."""
DEEPEST = 10
LONGEST = 30_000
"""Characters of one field of the line."""
LEFT_OUT = "fields_left_out"
LONGEST_NAME = 100


def plain_values(fields: dict[str, Any]) -> dict[str, Any]:
    """Turn the fields into plain values that together fit into ``ROOM``."""
    found: dict[str, Any] = {}
    left = ROOM
    for name, value in fields.items():
        if left <= 0:
            return found | {LEFT_OUT: len(fields) - len(found)}
        field = _Field(min(left, LONGEST))
        found[name] = field.value(value, 0)
        left -= field.taken
    return found


def interpolated(event: Any, arguments: tuple[Any, ...]) -> Any:
    """``event % arguments``, or a list of all of them if they cannot be interpolated."""
    if not arguments:
        return event
    try:
        named = len(arguments) == 1 and isinstance(arguments[0], Mapping) and arguments[0]
        return event % (arguments[0] if named else arguments)
    except BaseException:  # noqa: BLE001 - as in `value`
        return [event, *arguments]


def exception(exc_info: object) -> BaseException | None:
    """The error that ``exc_info`` means: the error itself, that in a triple, or the one being handled."""
    if type(exc_info) is tuple and len(exc_info) == 3:
        exc_info = exc_info[1]
    if exc_info is None or exc_info is False:
        return None
    return exc_info if issubclass(type(exc_info), BaseException) else sys.exc_info()[1]  # type: ignore[return-value]


def title(error: BaseException) -> str:
    """The error's type and message, as a stack trace ends."""
    return _shown(error, traceback.format_exception_only).strip()


def stack_trace(error: BaseException) -> str:
    return _shown(error, traceback.format_exception).rstrip("\n")


def _shown(error: BaseException, show: Callable[[BaseException], list[str]]) -> str:
    try:
        return "".join(show(error))
    except BaseException:  # noqa: BLE001 - as in `value`
        return f"{object.__repr__(error)} cannot be shown"


class _Field:
    """Converts one field. ``taken`` counts the characters that it uses of its room."""

    def __init__(self, room: int) -> None:
        self._room = room
        self.taken = 0

    def _items(self, fields: dict[Any, Any], depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, value in dict.items(fields):
            if self.taken >= self._room:
                found["…"] = f"{dict.__len__(fields):,} in all"
                break
            found[str(self.value(name, DEEPEST))[:LONGEST_NAME]] = self.value(value, depth + 1)
        return found

    def value(self, value: object, depth: int) -> Any:
        # Not by isinstance: an object may lie about its class. Any error may come out of its methods.
        kind = type(value)
        self.taken += PRICE
        try:
            return self._value(value, kind, depth)
        except BaseException:  # noqa: BLE001 - also KeyboardInterrupt: signals reach the event loop otherwise
            return f"{object.__repr__(value)} cannot be shown"

    def _value(self, value: Any, kind: type, depth: int) -> Any:
        if value is None or kind is bool or (kind is float and math.isfinite(value)):
            return value
        if kind is int and -(2**63) <= value < 2**63:
            return value
        if issubclass(kind, Enum):
            return self.value(value._value_, depth)
        if depth < DEEPEST:
            if issubclass(kind, dict):
                return self._items(value, depth)
            for base in (list, tuple, set, frozenset, deque):
                if issubclass(kind, base):
                    return self._values(base.__iter__(value), base.__len__(value), depth)
        return self._text(value, kind)

    def _values(self, values: Iterable[object], count: int, depth: int) -> list[Any]:
        found = []
        for value in values:
            if self.taken >= self._room:
                found.append(f"… {count:,} in all")
                break
            found.append(self.value(value, depth + 1))
        return found

    def _text(self, value: Any, kind: type) -> str:
        if issubclass(kind, str):
            text = str.__str__(value)
        elif issubclass(kind, (bytes, bytearray)):
            text = bytes(value[:LONGEST]).decode("utf-8", "backslashreplace")
        elif issubclass(kind, (date, time)):
            text = value.isoformat()
        elif issubclass(kind, (dict, list, tuple, set, frozenset, deque)):
            text = "…"
        else:
            text = str.__str__(str(value))
        text = shortened(text, max(self._room - self.taken, PRICE))
        self.taken += len(text)
        return text


def shortened(text: str, room: int) -> str:
    """Cut out the middle of a text that is too long: a stack trace says most at its end."""
    return text if len(text) <= room else f"{text[: room // 3]} … {text[-2 * room // 3 :]}"
