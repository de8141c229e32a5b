"""The arguments and variables that the command line is given, as text."""

from __future__ import annotations

import os
import sys
from functools import partial
from typing import TYPE_CHECKING

from session_worker.cli import streams

if TYPE_CHECKING:
    from collections.abc import Callable


def require_utf8() -> None:
    """Decode arguments, and variables of ours, that Python misread because of the locale.

    Raises:
        SystemExit: one is not UTF-8, which was said on standard error.
    """
    for number, argument in enumerate(sys.argv):
        sys.argv[number] = _as_utf8(argument, partial(_name_of, number))
    for name, value in os.environ.items():
        if name.upper().startswith("SESSION_WORKER_") and value != (
            text := _as_utf8(value, partial(str, name))
        ):
            os.environ[name] = text


def _as_utf8(text: str, name: Callable[[], str]) -> str:
    # Python keeps bytes that it cannot decode as surrogates.
    if not any("\ud800" <= character <= "\udfff" for character in text):
        return text
    try:
        return os.fsencode(text).decode()
    except UnicodeError:
        streams.complain(f"{name()} is not UTF-8 text. Write it in UTF-8.")
        raise SystemExit(2) from None


def _name_of(number: int) -> str:
    """The option that the argument belongs to, or else its place."""
    argument, before = sys.argv[number], sys.argv[number - 1]
    if argument.startswith("-"):
        return argument.partition("=")[0]
    return before if before.startswith("--") and "=" not in before else f"Argument {number}"
