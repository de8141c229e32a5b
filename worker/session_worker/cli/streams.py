"""The standard streams, whatever their encoding and whoever reads them.

Results go to standard output; progress, notices and errors go to standard error. ``terminal.py`` lays out
what people read.
"""

from __future__ import annotations

import io
import json
import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

from session_worker.telemetry.printable import printable, printable_json

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, TextIO


class UnwritableError(Exception):
    """Standard output takes no more; ``__cause__`` says why."""


def prepare() -> None:
    """Let the streams replace characters that their encoding lacks, and open those that the caller closed.

    The number of a stream closed by ``>&-`` must not become that of a socket or a ledger.
    """
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            mode = "r" if name == "stdin" else "w"
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115, PTH123 - open as long as the process
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def unwritable() -> OSError | None:
    """Why standard output does not take what was written to it last; None: it takes it."""
    try:
        sys.stdout.flush()
    except OSError as error:
        return error
    return None


def encodable(text: str, stream: TextIO) -> str:
    """Replace the characters that the stream's encoding lacks."""
    encoding = stream.encoding or "utf-8"
    return text.encode(encoding, "replace").decode(encoding)


def discard_unwritten() -> None:
    """Drop what cannot be written: Python would try once more at its end, and complain."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def write_document(content: Mapping[str, Any], indent: int | None = None) -> None:
    """Print a JSON document on standard output, on one line unless ``indent`` is given.

    Raises:
        UnwritableError: it cannot be written.
    """
    # A character that the encoding lacks would be replaced, which must not happen inside JSON.
    encoding = sys.stdout.encoding or ""
    text = json.dumps(content, indent=indent, ensure_ascii=not encoding.lower().startswith("utf"))
    try:
        sys.stdout.write(printable_json(text) + "\n")
        sys.stdout.flush()
    except OSError as error:
        raise UnwritableError from error


def complain(sentence: str) -> None:
    """Print an error on one line of standard error; drop it if it cannot be written."""
    with suppress(OSError):
        sys.stderr.write(f"session-worker: {printable(sentence)}\n")
