"""The health check of the image finds the worker's ops port wherever that is set."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
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


def test_a_command_that_cannot_be_read_leaves_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A container whose first process is another user's, or a machine without /proc."""
    port = free_port()
    monkeypatch.setenv("SESSION_WORKER_OPS_PORT", str(port))
    with ops.serving("127.0.0.1", port, Board(1)):
        assert main(tmp_path / "none") == main(tmp_path) == 0


@pytest.mark.parametrize(
    "command",
    [
        "session-worker run --ops-port {port}",
        "session-worker run --ops-port={port} --ops-host '127.0.0.1'",
        "umask 077; exec session-worker run --ops-port $PORT&& echo done",
        "session-worker run --ops-port {port} # 'quoted",
    ],
)
def test_a_command_for_a_shell_is_read_word_by_word(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    monkeypatch.setenv("SESSION_WORKER_OPS_PORT", "1")
    monkeypatch.setenv("PORT", str(port))
    (tmp_path / "cmdline").write_bytes(f"sh\0-c\0{command.format(port=port)}\0".encode())
    with ops.serving("127.0.0.1", port, Board(1)):
        assert main(tmp_path / "cmdline") == 0
    assert main(tmp_path / "cmdline") == 1


def test_an_answer_is_harmless_to_a_terminal(check: Check, capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever has the port may write anything."""

    class Stranger(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"\x1b[2Jalive\n")

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Stranger) as other:
        threading.Thread(target=other.handle_request, daemon=True).start()
        assert check("--ops-port", str(other.server_port)) == 0
    assert capsys.readouterr().out == "\\x1b[2Jalive\n"
