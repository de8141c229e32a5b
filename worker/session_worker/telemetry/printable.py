"""Make text harmless to a terminal: spell out the characters that it would obey or not show."""

from __future__ import annotations

import json
import re
import unicodedata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_OBEYED = {"Cc", "Cf", "Cs", "Cn", "Co", "Zl", "Zp"}
"""Categories of control characters, directions, invisible signs and tags, surrogates, and breaks of lines."""
_EMPTY = "\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0\U000e0100-\U000e01ef"
"""Letters and marks that are invisible."""
_is_empty = re.compile(f"[{_EMPTY}]").search


def printable(text: str, keep: str = "") -> str:
    r"""The text with ``\x1b`` for an escape character, and so on, except for the characters in ``keep``."""
    return _spelled(text, keep, lambda character: character.encode("unicode_escape").decode())


def printable_json(document: str) -> str:
    """The same JSON document in harmless characters. Its line breaks stay: they are in no string."""
    return _spelled(document, "\n", lambda character: json.dumps(character)[1:-1])


def _spelled(text: str, keep: str, spell: Callable[[str], str]) -> str:
    if text.isprintable() and not _is_empty(text):
        return text
    return "".join(
        spell(character) if character not in keep and _is_obeyed(character) else character
        for character in text
    )


def _is_obeyed(character: str) -> bool:
    return unicodedata.category(character) in _OBEYED or _is_empty(character) is not None
