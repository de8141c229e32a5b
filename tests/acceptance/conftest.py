"""The command line as its users run it: a process, its words and its exit code."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import pytest

from tests.support.worker_process import PROGRAM

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class Ran:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def documents(self) -> list[dict[str, Any]]:
        """Standard output, which must be one JSON document per line and nothing else."""
        return [json.loads(line) for line in self.out.splitlines()]


class Cli(Protocol):
    """Runs `session-worker ARGUMENTS` to its end, settings by environment; a traceback fails the test."""

    def __call__(self, *arguments: object, **settings: object) -> Ran: ...


def environment(**settings: object) -> dict[str, str]:
    """This process's environment without its SESSION_WORKER_ variables, and with those of `settings`."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("SESSION_WORKER_")}
    return inherited | {f"SESSION_WORKER_{name.upper()}": str(value) for name, value in settings.items()}


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    def run(*arguments: object, **settings: object) -> Ran:
        done = subprocess.run(
            [PROGRAM, *map(str, arguments)],
            env=environment(**settings),
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert "Traceback" not in done.stderr, done.stderr
        return Ran(done.returncode, done.stdout, done.stderr)

    return run
