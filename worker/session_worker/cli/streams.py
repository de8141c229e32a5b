"""The standard streams and what the command line is given: whatever the encoding, and whoever reads."""

from __future__ import annotations

import io
import os
import sys
from functools import partial
from typing import TYPE_CHECKING

from session_worker.cli import terminal

if TYPE_CHECKING:
    from collections.abc import Callable


def mend() -> None:
    """Make the streams fit for every character, and have one in the place of each that is closed."""
    _open_what_is_closed()
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def _open_what_is_closed() -> None:
    """The caller may have closed one (``>&-``): its number must not become that of a socket or a ledger."""
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            mode = "r" if name == "stdin" else "w"
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115, PTH123 - open as long as the process


def give_up() -> None:
    """Drop what cannot be written: Python would try once more at its end, and complain."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def check_given() -> None:
    """Refuse arguments, and variables of ours, that are not UTF-8. Put those right that are, and that Python
    misread because of the locale."""
    for number, argument in enumerate(sys.argv):
        sys.argv[number] = _as_utf8(argument, partial(_named, number))
    for name, value in os.environ.items():
        if name.upper().startswith("SESSION_WORKER_") and value != (
            text := _as_utf8(value, partial(str, name))
        ):
            os.environ[name] = text


def _as_utf8(given: str, name: Callable[[], str]) -> str:
    # Python keeps bytes that it cannot decode as surrogates.
    if not any("\ud800" <= character <= "\udfff" for character in given):
        return given
    try:
        return os.fsencode(given).decode()
    except UnicodeError:
        terminal.complain(f"{name()} is not UTF-8 text. Write it in UTF-8.")
        raise SystemExit(2) from None


def _named(number: int) -> str:
    """The option that an argument belongs to, or the argument's place."""
    argument, before = sys.argv[number], sys.argv[number - 1]
    if argument.startswith("-"):
        return argument.partition("=")[0]
    return before if before.startswith("--") and "=" not in before else f"Argument {number}"
