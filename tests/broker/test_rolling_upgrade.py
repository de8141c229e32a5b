"""The version before this one and this one: on the same queues, with the same ledger, one after the other and
side by side."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

from tests.support.lab import ROOT, code_of, open_lab, request, send
from tests.support.waiting import soon
from tests.support.worker_process import PROGRAM

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.external_rabbitmq import ExternalRabbitMQ
    from tests.support.lab import Lab
    from tests.support.servers import RabbitMQ
    from tests.support.worker_process import WorkerProcess

BEFORE = "650ab66"
"""The last commit before workers served more than one operation."""
PACKAGES = ("contracts", "client", "worker")


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packages as they were, from the repository."""
    found = subprocess.run(
        ["git", "-C", ROOT, "archive", BEFORE, *PACKAGES], capture_output=True, check=False
    )
    if found.returncode:
        pytest.skip(f"there is no repository here that has {BEFORE}")
    folder = tmp_path_factory.mktemp("before")
    subprocess.run(["tar", "-x", "-C", folder], input=found.stdout, check=True)
    return folder


def old_worker(lab: Lab, before: Path, **settings: Any) -> WorkerProcess:
    """A worker of the version before, with the environment's libraries."""
    path = os.pathsep.join([*(str(before / package) for package in PACKAGES), str(ROOT)])
    command = (sys.executable, "-P", "-m", "session_worker.cli", "run")
    worker = lab.worker(command=command, env={"PYTHONPATH": path}, **settings)
    queues = lab.broker.queue_depths(lab.vhost)
    assert "session.create" in queues
    assert "session.get" not in queues, "this is not the version before"
    return worker


def stop(worker: WorkerProcess) -> None:
    worker.terminate()
    assert worker.wait(30) == 0


def test_what_the_version_before_left_in_its_queues_is_served(lab: Lab, before: Path) -> None:
    """A retry that is waiting, requests that nobody took before they expired, and dead letters."""
    bug = lab.folder / "bug"
    bug.touch()
    settings: dict[str, Any] = {"retry_delays": "10", "max_attempts": 3}
    worker = old_worker(lab, before, **settings)
    [parked] = send(lab, 1, bug=str(bug))
    waiting = send(lab, 3, fails=1)
    lab.take("session.replies", 1, 30)
    lab.holds("session.create.dead", 1)
    lab.holds("session.create.retry.10s", 3)
    stop(worker)
    expired = str(uuid4())
    with lab.requester() as requester:
        requester.send(request(expired), expiration="1", reply_to=None)
    lab.holds("session.create.undelivered", 1)

    lab.worker(**settings)

    replies = lab.take("session.replies", 4, 60)
    assert {reply.properties.correlation_id: code_of(reply) for reply in replies} == {
        expired: "expired",
        **dict.fromkeys(waiting),
    }
    bug.unlink()
    redriven = subprocess.run(
        [PROGRAM, "dead", "redrive", "--yes"],
        env=os.environ | {"SESSION_WORKER_AMQP_URL": lab.url, "SESSION_WORKER_LEDGER_URL": lab.ledger_url},
        capture_output=True,
        text=True,
        check=False,
    )
    assert redriven.returncode == 0, redriven.stderr
    [reply] = lab.take("session.replies", 1, 30)
    assert (reply.properties.correlation_id, code_of(reply)) == (parked, None)
    lab.quiet()
    assert lab.sessions() == 4


@pytest.fixture(params=["sqlite", "postgresql"])
def new_lab(
    request: pytest.FixtureRequest, rabbitmq: RabbitMQ | ExternalRabbitMQ, tmp_path: Path
) -> Iterator[Lab]:
    """A lab on each kind of ledger, with nothing in it."""
    fixture = "sqlite_url" if request.param == "sqlite" else "empty_postgresql_url"
    with open_lab(rabbitmq, request.getfixturevalue(fixture), tmp_path) as lab:
        yield lab


def test_both_versions_serve_the_same_queues_side_by_side(new_lab: Lab, before: Path) -> None:
    """The new one upgrades the ledger under the old one; each request is answered once, whoever has it, also
    when one of them dies."""
    lab = new_lab
    old = old_worker(lab, before, migrate="true", concurrency=8)
    request_ids = send(lab, 20)
    new = lab.worker(migrate="true", concurrency=8, operations="create_session")
    request_ids += send(lab, 100, fails=1)
    request_ids += send(lab, 16, gate=str(lab.gate))
    soon(lambda: len(holders(lab, request_ids[-16:])) == 2, 30)
    old.kill()
    lab.open_gate()
    replies = lab.take("session.replies", len(request_ids), 60)
    assert {code_of(reply) for reply in replies} == {None}
    assert sorted(reply.properties.correlation_id for reply in replies) == sorted(request_ids)
    lab.quiet()
    assert lab.sessions() == len(request_ids)
    stop(new)


def holders(lab: Lab, request_ids: list[str]) -> set[str]:
    """The workers that run these requests; none until all run."""
    found = [lab.find(request_id) for request_id in request_ids]
    if not all(entry is not None and entry.status == "processing" for entry in found):
        return set()
    return {str(entry.history[-1]["worker_id"]) for entry in found if entry is not None}
