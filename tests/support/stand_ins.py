"""Stand-ins for programs of the pages that this machine may lack."""

from __future__ import annotations

import shutil
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_CODE = {
    "curl": """
import sys, urllib.error, urllib.request
try:
    answer = urllib.request.urlopen(f'http://{sys.argv[-1]}')
except urllib.error.HTTPError as error:
    answer = error
with answer:
    print(answer.read().decode())
""",
    "sqlite3": """
import contextlib, sqlite3, sys
with contextlib.closing(sqlite3.connect(sys.argv[1])) as database:
    database.execute(sys.argv[2])
""",
}


def fill(folder: Path) -> None:
    """Put into ``folder``, which goes first on PATH, what is missing."""
    for name, code in _CODE.items():
        if not shutil.which(name):
            program(folder / name, f'exec {sys.executable} -c "{code}"')


def program(path: Path, command: str) -> None:
    """Make a program of a shell command, to which its arguments are added."""
    path.write_text(f'#!/bin/sh\n{command} "$@"\n')
    path.chmod(0o755)
