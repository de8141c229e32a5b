"""Load an app, or a hook, and say what it serves or what is wrong with it. ``local.py`` runs this in its own
process."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from session_worker.operations import loading
from session_worker.operations.errors import AppError
from session_worker.operators.operations import Known
from session_worker.runtime.served import served_by
from session_worker.settings import Settings


def main() -> None:
    """Read the settings from standard input and write the answer to standard output, both as JSON. What the
    user's module prints goes to stderr."""
    answer = os.dup(1)
    os.dup2(2, 1)
    settings = Settings.take_over(json.load(sys.stdin))
    sys.path.insert(0, str(Path.cwd()))
    with open(answer, "w") as out:  # noqa: PTH123 - no path
        json.dump(_load(settings), out)
    os._exit(0)  # whatever the module has started


def _load(settings: Settings) -> dict[str, Any]:
    try:
        app = loading.load(settings.app, settings.handler)
        return {"known": [asdict(Known.of(each)) for each in served_by(settings, app)]}
    except AppError as error:
        return {"what": error.what, "fix": error.fix}
