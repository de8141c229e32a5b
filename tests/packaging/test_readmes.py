"""The program that each distribution's README shows, which a package index prints as its page."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.packaging.conftest import FOLDERS, done
from tests.support.pages import blocks

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

BROKER = "amqp://guest:guest@localhost:5672/"


def program(package: str) -> str:
    (block,) = blocks((FOLDERS[package] / "README.md").read_text())
    assert block.language == "python"
    return block.text


def test_the_program_of_the_contracts_runs(python: Path, tmp_path: Path) -> None:
    shown = program("session_contracts")
    assert done(python, "-c", shown + "print(request.operation)", cwd=tmp_path) == "create_session\n"


def test_the_program_of_the_client_gets_its_answer(
    python: Path, amqp_url: str, sqlite_url: str, worker_process: Callable[..., object], tmp_path: Path
) -> None:
    worker_process(amqp_url=amqp_url, ledger_url=sqlite_url)
    shown = program("session_client")
    assert BROKER in shown
    assert done(python, "-c", shown.replace(BROKER, amqp_url), cwd=tmp_path).startswith("ts_")
