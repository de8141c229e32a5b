"""The health check of the image finds the worker's ops port wherever that is set."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from session_worker.cli.healthcheck import main
from session_worker.runtime import ops
from session_worker.runtime.health import Board
from session_worker.sandbox.workspace import free_port

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Check = Callable[..., int]


@pytest.fixture
def check(tmp_path: Path) -> Check:
    """The check in a container that runs ``session-worker run`` with these options."""

    def check(*options: str) -> int:
        command = tmp_path / "cmdline"
        command.write_bytes("\0".join(["python", "/bin/session-worker", "run", *options, ""]).encode())
        return main(command)

    return check


@pytest.mark.parametrize("source", ["environment", "option", "option with =", "secret"])
@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_a_worker_is_alive_as_long_as_it_answers(
    source: str, host: str, check: Check, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked at the port that the worker itself took from there, and at an address of this machine."""
    port = free_port()
    options = {"option": ["--ops-port", str(port)], "option with =": [f"--ops-port={port}"]}.get(source, [])
    monkeypatch.setenv("SESSION_WORKER_OPS_HOST", host)
    if source == "environment":
        monkeypatch.setenv("SESSION_WORKER_OPS_PORT", str(port))
    elif source == "secret":
        (tmp_path / "session_worker_ops_port").write_text(str(port))
        monkeypatch.setenv("SESSION_WORKER_SECRETS_DIR", str(tmp_path))
    else:
        monkeypatch.setenv("SESSION_WORKER_OPS_PORT", "1")  # the option wins
    with ops.serving(host, port, Board(1)):
        assert check(*options) == 0
    assert check(*options) == 1


@pytest.mark.parametrize("options", [["--ops-port", "0"], ["--ops-port=0"]])
def test_a_worker_without_an_ops_port_is_not_called_unhealthy(
    options: list[str], check: Check, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nobody can be asked; that the container runs has to do."""
    assert check(*options) == 0
    assert "there is nothing to ask" in capsys.readouterr().out


def test_a_port_that_is_none_is_a_sentence(
    check: Check, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The worker itself refuses it too; `docker inspect` shows why."""
    monkeypatch.setenv("SESSION_WORKER_OPS_PORT", "99999999")
    assert check() == 1
    assert "ops_port" in capsys.readouterr().out
