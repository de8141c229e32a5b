"""mypy reads our types where they are installed, from the wheels and from an editable installation alike."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.packaging.conftest import clean

if TYPE_CHECKING:
    from pathlib import Path

PROGRAM = """
from session_client import SessionClient
from session_contracts import CreateSessionRequest, CreateSessionResponse
from session_worker import Context, Rejected


async def handle(request: CreateSessionRequest, context: Context) -> dict[str, str]:
    if context.attempt > 1:
        raise Rejected(request.user_id, code="once")
    return {"session": context.session_id}


async def ask(client: SessionClient) -> CreateSessionResponse:
    return await client.create_session(user_id="ada@example.com", title="Search of the east wing")


async def wrong(client: SessionClient, context: Context) -> str:
    await client.create_session(user=1)
    return context.attempt
"""
FOUND = {
    'Unexpected keyword argument "user" for "create_session" of "SessionClient"',
    'Incompatible return value type (got "int", expected "str")',
}


@pytest.fixture(params=["wheels", "editable"])
def interpreter(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue("python")) if request.param == "wheels" else sys.executable


def test_mypy_finds_the_mistakes_in_a_program_and_no_others(interpreter: str, tmp_path: Path) -> None:
    pytest.importorskip("mypy", reason="mypy is not installed in this environment")
    (tmp_path / "program.py").write_text(PROGRAM)
    command = [sys.executable, "-m", "mypy", "--strict", "--python-executable", interpreter, "program.py"]
    ran = subprocess.run(command, cwd=tmp_path, env=clean(), capture_output=True, text=True, check=False)

    errors = [line for line in ran.stdout.splitlines() if ": error: " in line]
    assert len(errors) == len(FOUND), ran.stdout + ran.stderr
    assert all(any(text in line for line in errors) for text in FOUND), ran.stdout
