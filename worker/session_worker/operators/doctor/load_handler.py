"""Load a handler and say what is wrong with it. ``local.py`` runs this in its own process."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from pathlib import Path

from session_worker.operations import loading
from session_worker.operations.errors import AppError


def main(path: str) -> None:
    """Write what is wrong to standard output. What the handler's module prints goes to stderr."""
    answer = os.dup(1)
    os.dup2(2, 1)
    sys.path.insert(0, str(Path.cwd()))
    try:
        loading.load_hook(path)
    except AppError as error:
        os.write(answer, f"{error}{_where(error.__cause__)}".encode())
    os._exit(0)  # whatever the module has started


def _where(cause: BaseException | None) -> str:
    """The line at which the import failed, if it is in the user's code."""
    if isinstance(cause, SyntaxError):
        return f" at {cause.filename}:{cause.lineno}"
    frames = traceback.extract_tb(cause.__traceback__ if cause else None)
    lines = [f" at {frame.filename}:{frame.lineno}" for frame in frames if _is_somebodys(frame.filename)]
    return lines[-1] if lines else ""


def _is_somebodys(file: str) -> bool:
    return not file.startswith("<frozen ") and file not in {loading.__file__, importlib.__file__}
