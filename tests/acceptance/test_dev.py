"""`dev`: a first request where nothing runs yet, and nothing left of it afterwards."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from session_worker import App
from session_worker.cli import program_name
from session_worker.cli.dev import _Guide
from session_worker.runtime.health import Report
from session_worker.settings import load
from tests.acceptance.conftest import environment
from tests.acceptance.test_interrupts import processes_of, started, temporary_folder
from tests.support.pages import blocks
from tests.support.waiting import soon

if TYPE_CHECKING:
    from tests.acceptance.conftest import Cli

__all__ = ["temporary_folder"]

HANDLER = """
import logging
logging.basicConfig()
async def handle(request, context):
    logging.warning("handled here")
    return {"region": "eu-1"}
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP, signal.SIGKILL])
def test_the_lines_that_dev_prints_can_be_pasted_and_nothing_is_left_however_it_ends(
    temporary_folder: Path, tmp_path: Path, number: signal.Signals
) -> None:
    """Its handler comes from the folder where it was started, the lines work in any other."""
    (tmp_path / "mine.py").write_text(HANDLER)
    env = environment(prefix="orders", amqp_url="amqp://ignored/") | {"TMPDIR": str(temporary_folder)}
    with started("dev", "--handler", "mine:handle", env=env, folder=tmp_path) as process:
        assert process.stdout is not None
        lines: list[str] = []
        while not (lines and "send --user" in lines[-1]):
            lines.append(process.stdout.readline())
            assert lines[-1], f"it ended too early: {lines}"
        assert '"region": "eu-1"' in pasted(*lines[-2:-1], f"{lines[-1].rstrip()} --json")
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
        assert process.returncode == (-number if number is signal.SIGKILL else 0), err
        assert "in place of SESSION_WORKER_AMQP_URL.\n" in err
        assert err.count("handled here") == 1, "what it logs is in the worker's log alone, as in `run`"
    soon(lambda: not processes_of(temporary_folder) and not list(temporary_folder.iterdir()))


def test_an_app_is_served_and_asked_by_the_lines_that_dev_prints_and_follows_its_code(
    cli: Cli, tmp_path: Path
) -> None:
    cli("new", "shop", "--into", ".")
    with started("dev", "shop:app", "--reload", env=environment(), folder=tmp_path) as process:
        assert process.stdout is not None
        lines: list[str] = []
        while not (lines and "close_session" in lines[-1]):
            lines.append(process.stdout.readline())
            assert lines[-1], f"it ended too early: {lines}"
        export, order, *others = (line for line in lines if line.startswith("export") or " send --" in line)
        assert len(others) == 4, "one for each built-in operation"
        assert '{"item":"tea","left":99}' in pasted(export, order)
        assert asked_as_the_readme_says(tmp_path, export) == "97\n"
        assert '"sessions":[]' in pasted(export, *(line for line in others if "list_sessions" in line))
        app = tmp_path / "shop.py"
        app.write_text(app.read_text().replace('"tea": 100', '"tea": 7'))
        soon(lambda: '{"item":"tea","left":6}' in pasted(export, order), 60)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err


def asked_as_the_readme_says(project: Path, export: str) -> str:
    """What the requester on the page of a new project prints."""
    (program,) = (
        block.text for block in blocks((project / "README.md").read_text()) if block.language == "python"
    )
    url = export.partition("SESSION_WORKER_AMQP_URL=")[2].split()[0]
    ran = subprocess.run(
        [sys.executable, "-c", program],
        cwd=project,
        env=environment(amqp_url=url),
        capture_output=True,
        text=True,
        check=False,
    )
    return ran.stdout or ran.stderr


def pasted(*lines: str) -> str:
    """What these lines print in another terminal and folder."""
    shell = ["env", "-i", "bash", "--noprofile", "--norc", "-c", "".join(lines)]
    return subprocess.run(shell, cwd="/", capture_output=True, text=True, check=True).stdout


def test_nothing_is_left_if_it_ends_while_the_broker_starts(temporary_folder: Path) -> None:
    with started("dev", env=environment() | {"TMPDIR": str(temporary_folder)}) as process:
        soon(lambda: list(temporary_folder.glob("*/*.KILL")))
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    soon(lambda: not processes_of(temporary_folder) and not list(temporary_folder.iterdir()))


def test_a_handler_that_is_not_there_is_said_before_a_broker_is_started(cli: Cli) -> None:
    ran = cli("dev", "--handler", "nowhere:handle")
    assert ran.code == 1
    assert "nowhere" in ran.err
    assert "RabbitMQ" not in ran.err


def test_a_worker_runs_on_although_nobody_reads_how_to_send_it_a_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Gone(io.StringIO):
        def write(self, _: str) -> int:
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stdout", Gone())
    _Guide(load(), App()).see(Report(1, "worker-1", started=True, checks={}, metrics={}))


def test_the_program_is_named_so_that_it_can_be_typed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """By its name where the shell finds it, else by its path, which is a short one inside this folder."""
    script = Path(sys.executable).with_name("session-worker")
    assert program_name.anywhere() == str(script)
    monkeypatch.setenv("PATH", f"{script.parent}:{os.environ['PATH']}")
    assert program_name.here() == "session-worker"
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert program_name.here() == str(script)
    monkeypatch.chdir(script.parents[1])
    assert program_name.here() == f"{script.parent.name}/session-worker"
