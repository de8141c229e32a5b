"""`run --reload`: the code changes under a running worker, and no request is lost or done twice for that."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.lab import answer, request
from tests.support.requester import Requester
from tests.support.waiting import soon
from tests.support.worker_process import PROGRAM

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.worker_process import WorkerProcess

HANDLER = """
import asyncio
import pathlib


async def handle(request, context):
    if gate := request.metadata.get("gate"):
        pathlib.Path(gate + ".begun").touch()
        while not pathlib.Path(gate).exists():
            await asyncio.sleep(0.02)
    return {"version": VERSION}
"""


class Project:
    """A folder with a handler that names its version, and the worker that runs it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self.write("1")

    def write(self, version: str) -> None:
        (self.folder / "mine.py").write_text(HANDLER.replace("VERSION", version))


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path / "project")


@pytest.fixture
def worker(
    project: Project, amqp_url: str, sqlite_url: str, worker_process: Callable[..., WorkerProcess]
) -> WorkerProcess:
    return worker_process(
        command=[PROGRAM, "run", "--reload"],
        folder=project.folder,
        amqp_url=amqp_url,
        ledger_url=sqlite_url,
        handler="mine:handle",
    )


def test_the_old_process_finishes_what_it_runs_and_the_new_code_serves_what_comes_then(
    project: Project, worker: WorkerProcess, amqp_url: str, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    with Requester(amqp_url) as requester:
        requester.send(request(gate=str(gate)))
        soon(gate.with_name("gate.begun").exists)
        project.write("2")
        assert worker.wait_for("code changed")["files"] == "mine.py"
        worker.wait_for("draining")
        gate.touch()
        assert answer(requester.collect(1, 30)[0])["metadata"]["version"] == 1
        assert answer(requester.ask(request()))["metadata"]["version"] == 2


def test_code_that_cannot_be_loaded_is_told_and_requests_wait_for_the_next_change(
    project: Project, worker: WorkerProcess, amqp_url: str
) -> None:
    project.write("= wrong")
    worker.wait_for("process ended, waiting for a change of the code")
    (said,) = (line for line in worker.output if "SyntaxError" in line)
    assert said.startswith("session-worker: handler mine:handle: module mine cannot be imported")
    with Requester(amqp_url) as requester:
        requester.send(request())
        project.write("3")
        assert answer(requester.collect(1, 30)[0])["metadata"]["version"] == 3


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_its_process_ends_with_it(worker: WorkerProcess, number: signal.Signals) -> None:
    process = Path("/proc", worker.wait_for("worker up")["worker_id"].split("-")[-2])
    assert process.exists()
    assert worker.wait_for("the worker starts anew with each change: for developing only")
    worker.send_signal(number)
    assert worker.wait() == (-number if number is signal.SIGKILL else 0)
    soon(lambda: not process.exists())


BLIND = """
import sys
import watchfiles


def awatch(*_, **__):
    raise OSError("no room for more watches")


watchfiles.awatch = awatch
sys.argv = ["session-worker", "run", "--reload"]
from session_worker.cli import main
main()
"""


def test_where_the_code_cannot_be_watched_it_says_so_and_ends(
    amqp_url: str, sqlite_url: str, worker_process: Callable[..., WorkerProcess]
) -> None:
    worker = worker_process(
        wait=False, command=[sys.executable, "-c", BLIND], amqp_url=amqp_url, ledger_url=sqlite_url
    )
    assert worker.wait() == 1
    said = "session-worker: reload: the code cannot be watched (no room for more watches); "
    assert worker.output[-1].startswith(said)
