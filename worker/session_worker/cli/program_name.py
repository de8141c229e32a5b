"""How to type this program's name."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path


def anywhere() -> str:
    """In any terminal of this user."""
    script = _script()
    return shlex.quote(str(script)) if script else shlex.join([sys.executable, "-m", "session_worker.cli"])


def here() -> str:
    """In this terminal and this folder, as short as it can be."""
    script, on_path = _script(), shutil.which("session-worker")
    if script and on_path and script.samefile(on_path):
        return "session-worker"
    if script and script.is_relative_to(Path.cwd()):
        return shlex.quote(str(script.relative_to(Path.cwd())))
    return anywhere()


def _script() -> Path | None:
    script = Path(sys.executable).absolute().with_name("session-worker")
    return script if script.exists() else None
