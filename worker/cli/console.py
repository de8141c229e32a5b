"""Where the words go: results to standard output; progress, notices and errors to standard error."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from rich.console import Console

WIDE = 160
"""Columns of a table that no terminal will show: wide enough that no id is cut."""


def results() -> Console:
    return _console(stderr=False)


def notices() -> Console:
    return _console(stderr=True)


def _console(*, stderr: bool) -> Console:
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    return Console(
        stderr=stderr, width=None if stream.isatty() else WIDE, highlight=False, markup=False, emoji=False
    )


def document(content: Mapping[str, Any]) -> None:
    """Print one JSON document on one line of standard output."""
    sys.stdout.write(json.dumps(content, ensure_ascii=False) + "\n")
