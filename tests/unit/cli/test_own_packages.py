"""Modules in the folder where a command is started are the user's, whatever their names."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

NOWHERE = "postgresql://127.0.0.1:1/ledger"
SCRIPT = "import sys; sys.path.pop(0); from session_worker.cli import main; main()"
STARTS = {"script": ["-c", SCRIPT], "module": ["-m", "session_worker.cli"]}
HANDLER = "async def handle(request, context): ..."


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Has modules and packages of the names that many projects use."""
    for name in ("client", "worker", "ledger"):
        (tmp_path / f"{name}.py").write_text(HANDLER)
    (tmp_path / "contracts").mkdir()
    (tmp_path / "contracts" / "__init__.py").write_text("")
    (tmp_path / "contracts" / "sessions.py").write_text(HANDLER)
    return tmp_path


def run(folder: Path, start: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("SESSION_WORKER_")}
    return subprocess.run(
        [sys.executable, *STARTS[start], *arguments],
        cwd=folder,
        env=inherited | {"SESSION_WORKER_AMQP_URL": "amqp://127.0.0.1:1/"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("more", [[], ["--processes", "2", "--ledger-url", NOWHERE]], ids=["one", "several"])
def test_a_missing_handler_is_reported_in_a_sentence(folder: Path, start: str, more: list[str]) -> None:
    """By the worker itself and by the processes of a supervisor."""
    done = run(folder, start, "run", "--handler", "nope:handle", *more)

    assert done.returncode == 1
    assert "session-worker: handler nope:handle: module nope cannot be imported" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("handler", ["worker", "client", "ledger", "contracts.sessions"])
def test_a_handler_module_may_have_any_name(folder: Path, start: str, handler: str) -> None:
    """The doctor loads what the worker would."""
    done = run(folder, start, "doctor", "--json", "--handler", f"{handler}:handle", "--ledger-url", NOWHERE)

    states = {line["name"]: line["state"] for line in map(json.loads, done.stdout.splitlines())}
    assert states["handler"] == "ok", done.stdout
    assert "Traceback" not in done.stderr
