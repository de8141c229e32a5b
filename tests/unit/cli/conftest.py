"""The command line within this process: quicker than a process of its own, for what needs no server."""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING

import pytest

from session_worker.cli import main

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Runs `session-worker ARGUMENTS`, settings by environment; exit code, standard output and error."""
    for name in [name for name in os.environ if name.startswith("SESSION_WORKER_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # those of the tests stay

    def run(*arguments: object, **settings: object) -> tuple[int, str, str]:
        for name, value in settings.items():
            monkeypatch.setenv(f"SESSION_WORKER_{name.upper()}", str(value))
        monkeypatch.setattr(sys, "path", [*sys.path])
        monkeypatch.setattr(sys, "argv", ["session-worker", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
        shown = capsys.readouterr()
        assert "Traceback" not in shown.out + shown.err
        return int(str(end.value.code or 0)), shown.out, shown.err

    return run
