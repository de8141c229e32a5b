"""Folders of a user that are named like our packages, where a command is started, are not taken for them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from worker.handlers import OPTIONAL, RESERVED

if TYPE_CHECKING:
    from pathlib import Path

NOWHERE = "postgresql://127.0.0.1:1/ledger"
SCRIPT = "import sys; sys.path.pop(0); from worker.cli import main; main()"
STARTS = {"script": ["-c", SCRIPT], "module": ["-m", "worker.cli"]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Has a package of each of our names but `worker`, which `python -m` could not but find there."""
    for name in RESERVED:
        if name != "worker":
            (tmp_path / name).mkdir()
            (tmp_path / name / "__init__.py").write_text("raise ImportError('the wrong one')")
    for name in OPTIONAL:
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong one')")
    (tmp_path / "mine.py").write_text("async def handle(request, context): ...")
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
def test_a_handler_that_is_not_there_stays_a_sentence(folder: Path, start: str, more: list[str]) -> None:
    """In the worker itself and in the processes of a supervisor."""
    done = run(folder, start, "run", "--handler", "nope:handle", *more)

    assert done.returncode == 1
    assert "session-worker: handler nope:handle: module nope cannot be imported" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("start", STARTS)
def test_the_doctor_loads_what_the_worker_would(folder: Path, start: str) -> None:
    done = run(folder, start, "doctor", "--json", "--handler", "mine:handle", "--ledger-url", NOWHERE)

    states = {line["name"]: line["state"] for line in map(json.loads, done.stdout.splitlines())}
    assert states["handler"] == "ok", done.stdout
    assert "Traceback" not in done.stderr


HIDE = """
import sys
from importlib.machinery import PathFinder

real = PathFinder.find_spec
def find_spec(name, path=None, target=None):
    return None if path is None and name.split(".")[0] in {hidden!r} else real(name, path, target)
PathFinder.find_spec = find_spec
"""


@pytest.mark.parametrize("hidden", [(), OPTIONAL], ids=["installed", "missing"])
def test_a_module_of_a_user_is_not_taken_for_what_we_import(folder: Path, hidden: tuple[str, ...]) -> None:
    """Neither in the place of an installed package, nor where it is missing: that is said."""
    arguments = ["run", "--traces", "--handler", "nope:handle", "--ledger-url", NOWHERE]
    script = HIDE.format(hidden=hidden) + SCRIPT
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "the wrong one" not in done.stderr
    assert ("OpenTelemetry is not installed" if hidden else "handler nope:handle") in done.stderr
