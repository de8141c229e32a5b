"""Ctrl-C and the like: a clean end with nothing left behind."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.acceptance.conftest import environment
from tests.support.waiting import soon
from tests.support.worker_process import PROGRAM

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.acceptance.conftest import Cli
    from tests.support.external_rabbitmq import ExternalRabbitMQ
    from tests.support.servers import RabbitMQ
    from tests.support.worker_process import WorkerProcess


@contextmanager
def started(
    *arguments: str, env: dict[str, str], folder: Path | None = None
) -> Iterator[subprocess.Popen[str]]:
    """`session-worker ARGUMENTS`, running; killed in the end if it still does."""
    process = subprocess.Popen(
        [PROGRAM, *arguments],
        env=env,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture
def temporary_folder() -> Iterator[Path]:
    """A folder for temporary files that the private servers' users may enter too."""
    folder = Path(tempfile.mkdtemp(prefix="interrupt-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def processes_of(folder: Path) -> list[str]:
    """The command lines of all processes that know the folder, in their arguments or their environment."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command, variables = (process / "cmdline").read_bytes(), (process / "environ").read_bytes()
        except OSError:
            continue
        if os.fsencode(folder) in command + variables:
            found.append(os.fsdecode(command).replace("\0", " "))
    return found


def test_send_interrupted_while_it_waits(
    cli: Cli, rabbitmq: RabbitMQ | ExternalRabbitMQ, vhost: str, amqp_url: str
) -> None:
    """Exit code 130, the tally so far, no traceback; and its reply queue, named as asked, is gone."""
    cli("topology", "apply", amqp_url=amqp_url)
    queues = set(rabbitmq.queue_depths(vhost))
    ask = ("send", "--user", "ada", "--count", "3", "--in-flight", "2", "--name", "shop")
    with started(*ask, env=environment(amqp_url=amqp_url)) as process:
        soon(lambda: rabbitmq.queue_depths(vhost)["session.create"] == 2)
        (reply_queue,) = set(rabbitmq.queue_depths(vhost)) - queues
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=15)

    assert process.returncode == 130, err
    assert out == ""
    assert "0 requests ended, 2 are unanswered and may still be handled, 1 were not sent" in err
    assert len(err.splitlines()) == 1
    assert reply_queue.startswith("session.replies.shop.")
    assert set(rabbitmq.queue_depths(vhost)) == queues


def test_a_worker_that_is_interrupted_stops_in_order(
    worker_process: Callable[..., WorkerProcess], amqp_url: str, sqlite_url: str
) -> None:
    """It was asked to stop and did: exit code 0."""
    worker = worker_process(amqp_url=amqp_url, ledger_url=sqlite_url)
    worker.send_signal(signal.SIGINT)

    assert worker.wait(30) == 0
    assert worker.logs[-1]["event"] == "worker stopped"
    assert "Traceback" not in "".join(worker.output)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_worker_that_is_told_to_stop_while_its_program_is_loaded_does(
    tmp_path: Path, number: signal.Signals
) -> None:
    """It had nothing to put in order: exit code 0. A library that takes its time holds it up, step by
    step: Python does not see a signal that comes at the last moment before a single long call."""
    (tmp_path / "typer.py").write_text(
        "open('loading', 'w').close()\nimport time\nfor _ in range(600):\n    time.sleep(0.1)"
    )
    with started("run", env=environment() | {"PYTHONPATH": str(tmp_path)}, folder=tmp_path) as process:
        soon((tmp_path / "loading").exists)
        process.send_signal(number)
        assert process.communicate(timeout=15) == ("", "")
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("shown", "number"),
    [("demo:", signal.SIGTERM), ("✓ a worker process", signal.SIGINT)],
    ids=["while the broker starts", "while it sends"],
)
def test_a_demo_that_is_interrupted_leaves_nothing(
    temporary_folder: Path, shown: str, number: signal.Signals
) -> None:
    """Neither while the broker starts nor under load: no process, no file."""
    env = environment() | {"TMPDIR": str(temporary_folder)}
    with started("demo", "--count", "20000", env=env) as process:
        assert process.stdout is not None
        while shown not in (line := process.stdout.readline()):
            assert line, "the demo ended before it was interrupted"
        process.send_signal(number)
        _, err = process.communicate(timeout=60)

    assert process.returncode == 130, err
    assert err.splitlines()[-1].startswith("Interrupted: the demo's broker")
    assert "Traceback" not in err
    assert processes_of(temporary_folder) == []
    assert list(temporary_folder.iterdir()) == []
