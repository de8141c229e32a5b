"""Where the words go: results to standard output; progress, notices and errors to standard error.

What others wrote may be in all of them, and is made harmless to a terminal here, in one place.
"""

from __future__ import annotations

import json
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

from session_worker.telemetry.printable import printable, printable_json

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from session_worker.cli.printer import Printer

UNLIMITED = 1_000_000
"""Columns where there is no terminal: what reads a pipe wants its lines whole."""


class UnwritableError(Exception):
    """Standard output takes no more; ``__cause__`` says why."""


def results() -> Printer:
    return _console(stderr=False)


def notices() -> Printer:
    """They are dropped where they cannot be written."""
    return _console(stderr=True)


def confirmed(question: str) -> bool:
    """Ask the person at the terminal; anything but yes is no. Ctrl-C is an interrupt as everywhere."""
    notices().print(f"{question} [y/N]: ", end="", soft_wrap=True)
    try:
        return sys.stdin.readline().strip().lower() in {"y", "yes"}
    except KeyboardInterrupt:
        notices().print()
        raise


def _console(*, stderr: bool) -> Printer:
    from session_worker.cli.printer import Printer

    stream = sys.stderr if stderr else sys.stdout
    return Printer(
        file=stream,
        width=None if stream.isatty() else UNLIMITED,
        highlight=False,
        markup=False,
        emoji=False,
        vital=not stderr,
    )


def document(content: Mapping[str, Any], indent: int | None = None) -> None:
    """Print a JSON document on standard output, without ``indent`` on one line.

    Raises:
        UnwritableError: it cannot be written.
    """
    # What an encoding does not have is replaced, which must not happen inside JSON.
    encoding = sys.stdout.encoding or ""
    text = json.dumps(content, indent=indent, ensure_ascii=not encoding.lower().startswith("utf"))
    try:
        sys.stdout.write(printable_json(text) + "\n")
        sys.stdout.flush()
    except OSError as error:
        raise UnwritableError from error


def complain(sentence: str) -> None:
    """Say what is wrong, on one line."""
    with suppress(OSError):
        sys.stderr.write(f"session-worker: {printable(sentence)}\n")
