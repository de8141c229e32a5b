"""What is loaded for what: people and probes wait for nothing that they do not use."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import session_client

HEAVY = {"pydantic", "rich", "structlog", "asyncio", "aiormq", "aio_pika", "asyncpg", "uvloop", "tenacity"}
SERVING = {"aio_pika", "aiormq", "asyncpg", "uvloop", "pamqp"}


def loaded(program: str) -> set[str]:
    """The modules that are there when the program ends."""
    report = "import sys; sys.stdout = sys.__stdout__; print('\\n@' + ' '.join(sys.modules))"
    code = f"import atexit; atexit.register(lambda: exec({report!r})); {program}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    return set(done.stdout.rpartition("@")[2].split())


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["send", "--help"], ["ledger", "--help"]])
def test_help_loads_no_library_that_does_the_work(arguments: list[str]) -> None:
    found = loaded(f"import sys; sys.argv[1:] = {arguments!r}; from session_worker.cli import main; main()")
    assert "typer" in found
    assert not found & (HEAVY - {"pydantic"} if len(arguments) > 1 else HEAVY), "typer itself uses pydantic"


def test_a_supervisor_loads_nothing_that_serves_requests() -> None:
    """Its own memory and its start are all it adds to those of its processes."""
    found = loaded("import session_worker.runtime.supervisor, session_worker.settings")
    assert "session_worker.runtime.ops" in found
    assert not found & SERVING


def test_a_process_ignores_signals_before_it_loads_anything_large() -> None:
    found = loaded("import session_worker.cli.supervised_worker")
    assert not found & HEAVY


def test_how_servers_are_reached_is_loaded_without_the_client_that_uses_it() -> None:
    """A worker is no requester."""
    files = sorted((Path(session_client.__file__).parent / "net").glob("[!_]*.py"))
    found = loaded(f"import {', '.join(f'session_client.net.{file.stem}' for file in files)}")
    assert "session_client.net.brokers" in found
    assert "aio_pika" not in found
    assert not [each for each in found if re.fullmatch(r"session_client\.(?!net\b).*", each)]
