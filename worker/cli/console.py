"""Where the words go: results to standard output; progress, notices and errors to standard error."""

from __future__ import annotations

import json
import re
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from rich.console import Console

UNLIMITED = 1_000_000
"""Columns where there is no terminal: what reads a pipe wants its lines whole."""

# What a terminal obeys instead of showing: control characters, line breaks and changes of direction.
_COMMANDS = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    """Text that others wrote, harmless to a terminal: what it would obey is spelled out (``\\x1b``)."""
    return _COMMANDS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def results() -> Console:
    return _console(stderr=False)


def notices() -> Console:
    return _console(stderr=True)


def confirmed(question: str) -> bool:
    """Ask the person at the terminal; anything but yes is no. Ctrl-C is an interrupt as everywhere."""
    notices().print(f"{question} [y/N]: ", end="", soft_wrap=True)
    try:
        return sys.stdin.readline().strip().lower() in {"y", "yes"}
    except KeyboardInterrupt:
        notices().print()
        raise


def _console(*, stderr: bool) -> Console:
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    return Console(
        file=stream,
        width=None if stream.isatty() else UNLIMITED,
        highlight=False,
        markup=False,
        emoji=False,
    )


def document(content: Mapping[str, Any]) -> None:
    """Print one JSON document on one line of standard output, harmless to a terminal as well."""
    text = json.dumps(content, ensure_ascii=False)
    sys.stdout.write(_COMMANDS.sub(lambda found: f"\\u{ord(found[0]):04x}", text) + "\n")
