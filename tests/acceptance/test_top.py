"""`top`: current activity, live and once."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
from contextlib import contextmanager
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from tests.acceptance.conftest import environment
from tests.support.waiting import soon
from tests.support.worker_process import PROGRAM

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.acceptance.conftest import Cli
    from tests.support.external_rabbitmq import ExternalRabbitMQ
    from tests.support.servers import RabbitMQ
    from tests.support.worker_process import WorkerProcess

HANDLER = """
import asyncio
from pathlib import Path

async def handle(request, context):
    if request.user_id == "breaks":
        raise ConnectionError("the other side is \\x1b[31maway")
    while request.user_id == "waits" and not Path("gate").exists():
        await asyncio.sleep(0.02)
"""
LEFT = "\x1b[?1049l"
"""What a terminal is told when its usual screen comes back."""


class Terminal:
    """`session-worker` in a terminal of its own; `text` is all that it has written."""

    def __init__(self, *arguments: str, folder: Path, **settings: str) -> None:
        self._ours, theirs = pty.openpty()
        os.set_blocking(self._ours, False)
        self.resize(24, 100)
        self.modes = termios.tcgetattr(self._ours)
        # A size that is fixed by the environment counts more than the terminal's own.
        free = {
            name: text for name, text in environment(**settings).items() if name not in ("COLUMNS", "LINES")
        }
        self.process = subprocess.Popen(
            [PROGRAM, *arguments],
            env=free | {"TERM": "xterm"},
            cwd=folder,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # whose Ctrl-C reaches it
        )
        os.close(theirs)
        self._text = ""

    @property
    def text(self) -> str:
        try:
            while block := os.read(self._ours, 65_536):
                self._text += block.decode(errors="replace")
        except OSError:  # nothing more now, or ever
            pass
        return self._text

    @property
    def screen(self) -> str:
        """The last picture, without colours."""
        return re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", self.text.rpartition("\x1b[H")[2])

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self._ours, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def press(self, key: str) -> None:
        os.write(self._ours, key.encode())

    def left(self) -> int:
        """Its exit code, once it has ended."""
        soon(lambda: [self.text] and self.process.poll() is not None, 30)
        assert LEFT in self.text
        assert "Traceback" not in self.text
        assert termios.tcgetattr(self._ours) == self.modes
        assert self.process.returncode is not None
        return self.process.returncode

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._ours)


@contextmanager
def terminal(folder: Path, **settings: str) -> Iterator[Terminal]:
    found = Terminal("top", "--interval", "0.2", folder=folder, **settings)
    try:
        yield found
    finally:
        found.close()


def test_top_once_counts_requests_queues_and_workers(
    cli: Cli,
    worker_process: Callable[..., WorkerProcess],
    amqp_url: str,
    ledger_url: str,
    tmp_path: Path,
) -> None:
    """Two answered, one in the handler, one failed: as a document, and for people."""
    (tmp_path / "their_handler.py").write_text(HANDLER)
    where = {"amqp_url": amqp_url, "ledger_url": ledger_url}
    worker_process(**where, handler="their_handler:handle", max_attempts=1)
    failed, running = str(uuid4()), str(uuid4())
    cli("send", "--user", "ada@example.com", "--count", 2, amqp_url=amqp_url)
    cli("send", "--user", "breaks", "--request-id", failed, amqp_url=amqp_url)
    cli("send", "--user", "waits", "--request-id", running, "--timeout", 0.5, amqp_url=amqp_url)

    ran = cli("top", "--json", **where)
    shown = cli("top", **where)

    (found,) = ran.documents
    ledger = found["ledger"]
    assert (ran.code, found["ledger_trouble"], found["broker_trouble"]) == (0, None, None)
    assert ledger["measured_seconds"] == 5
    assert ledger["last_minute"]["finished_per_second"] == {
        "completed": pytest.approx(2 / 60, 0.1),
        "handler_failed": pytest.approx(1 / 60, 0.1),
    }
    assert 0 < ledger["last_minute"]["p50_seconds"] <= ledger["last_minute"]["p95_seconds"] < 30
    assert (ledger["processing"], ledger["pending"], ledger["failed_last_hour"]) == (1, 0, 1)
    assert len(ledger["workers"]) == 1
    (failure,) = ledger["failures"]
    assert (failure["request_id"], failure["error_code"]) == (failed, "handler_failed")
    assert found["queues"]["session.create"] == {"messages": 0, "consumers": 1, "trouble": None}
    assert found["queues"]["session.create.dead"]["messages"] == 1
    assert found["queues"]["session.close"]["messages"] == found["queues"]["session.get"]["messages"] == 0
    assert "session.get.retry.1s" not in found["queues"]
    assert shown.code == 0
    assert "1 processing, 0 pending, 1 failed in the last hour" in shown.out
    assert "ConnectionError: the other side is \\x1b[31maway" in shown.out
    (tmp_path / "gate").touch()


def test_what_is_unreachable_is_said_and_the_rest_is_shown(cli: Cli, amqp_url: str, sqlite_url: str) -> None:
    """Queues that are missing are no failure of the broker."""
    nowhere = "amqp://guest:secret@127.0.0.1:1/"
    cli("ledger", "upgrade", ledger_url=sqlite_url)

    no_broker = cli("top", "--json", amqp_url=nowhere, ledger_url=sqlite_url)
    no_ledger = cli("top", amqp_url=amqp_url, ledger_url="sqlite:///missing.db")

    (found,) = no_broker.documents
    assert (no_broker.code, found["queues"], found["ledger"]["workers"]) == (1, None, [])
    assert "127.0.0.1:1" in found["broker_trouble"]
    assert "secret" not in no_broker.out + no_broker.err
    assert no_ledger.code == 1
    assert "ledger unreachable" in no_ledger.out
    assert re.search(r"session\.create +missing", no_ledger.out)


@pytest.mark.parametrize("leave", ["q", "\x03"], ids=["q", "Ctrl-C"])
def test_a_terminal_shows_what_comes_and_goes_and_is_left_as_it_was(
    cli: Cli,
    worker_process: Callable[..., WorkerProcess],
    rabbitmq: RabbitMQ | ExternalRabbitMQ,
    vhost: str,
    amqp_url: str,
    sqlite_url: str,
    tmp_path: Path,
    leave: str,
) -> None:
    """It starts before there is a ledger, outlives its connection, and fits a terminal that shrinks."""
    with terminal(tmp_path, amqp_url=amqp_url, ledger_url=sqlite_url) as top:
        soon(lambda: "ledger unreachable" in top.screen and "missing" in top.screen)
        worker_process(amqp_url=amqp_url, ledger_url=sqlite_url)
        soon(lambda: "nothing finished" in top.screen and "missing" not in top.screen)
        rabbitmq.close_connections(vhost)
        cli("send", "--user", "ada@example.com", "--count", 20, amqp_url=amqp_url)
        soon(lambda: "completed 0.33" in top.screen and re.search(r"session\.create +0 +1", top.screen))
        top.resize(10, 40)
        soon(lambda: len(top.screen.splitlines()) == 10)
        top.press(leave)
        assert top.left() == 0
    assert all(len(line.rstrip()) <= 40 for line in top.screen.splitlines()[:9])
