"""Several processes of one worker: they share the work, and whoever dies is replaced and loses nothing."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.lab import HANDLER, ROOT, code_of, open_lab, send
from tests.support.waiting import soon
from tests.support.worker_process import PROGRAM, WorkerProcess

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.external_rabbitmq import ExternalRabbitMQ
    from tests.support.lab import Lab
    from tests.support.ops import Ops
    from tests.support.servers import RabbitMQ

REQUESTS = "session_worker_requests_total"
SHOP = "tests.support.apps.shop:app"


@pytest.fixture
def lab(rabbitmq: RabbitMQ | ExternalRabbitMQ, postgresql_url: str, tmp_path: Path) -> Iterator[Lab]:
    with open_lab(rabbitmq, postgresql_url, tmp_path) as lab:
        yield lab


Up = Callable[..., tuple[WorkerProcess, list[int]]]


@pytest.fixture
def up(lab: Lab, ops: Ops) -> Iterator[Up]:
    """Starts a worker of two processes that both consume; gives their ids. None of them outlives the test."""
    pids: list[int] = []

    def start(**settings: Any) -> tuple[WorkerProcess, list[int]]:
        worker = lab.worker(wait=False, processes=2, ops_port=ops.port, **settings)
        soon(lambda: worker.returncode is not None or ops.ready(), 30)
        worker.wait_for("worker up", count=2)
        pids.extend(ops.pids())
        return worker, ops.pids()

    yield start
    for pid in pids:
        if b"session_worker.cli.supervised_worker" in _command(pid):
            os.kill(pid, signal.SIGKILL)


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def gone(pids: list[int]) -> bool:
    return not any(Path(f"/proc/{pid}").exists() for pid in pids)


def assert_answered_once(lab: Lab, request_ids: list[str]) -> None:
    replies = lab.take("session.replies", len(request_ids), 30)
    assert {code_of(reply) for reply in replies} == {None}
    assert sorted(reply.properties.correlation_id for reply in replies) == sorted(request_ids)
    lab.quiet()
    lab.holds("session.replies", 0)
    assert lab.sessions() == len(request_ids)


def test_two_processes_share_the_work_and_are_counted_together(lab: Lab, ops: Ops, up: Up) -> None:
    worker, pids = up(concurrency=5)
    assert len({*pids, worker.pid}) == 3
    assert [os.getsid(pid) for pid in pids] == pids, "each has a session of its own"
    request_ids = send(lab, 10, gate=str(lab.gate))
    lab.running(10)
    assert ops.metric("session_worker_inflight") == 10
    assert ops.metric("session_worker_consumer_active") == 2
    lab.open_gate()
    request_ids += send(lab, 90)
    assert_answered_once(lab, request_ids)
    holders = {entry.history[-1]["worker_id"] for entry in lab.entries(request_ids)}
    assert len(holders) == 2
    assert set(lab.runs().values()) == {1}
    assert ops.metric(REQUESTS, outcome="completed") == 100


def test_a_killed_process_is_replaced_and_what_it_counted_stays(lab: Lab, ops: Ops, up: Up) -> None:
    """Its requests are taken over, each is answered once, and no sum goes backwards."""
    worker, pids = up(concurrency=10)
    request_ids = send(lab, 20)
    soon(lambda: ops.metric(REQUESTS) == 20)
    request_ids += send(lab, 20, gate=str(lab.gate))
    lab.running(40)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    worker.wait_for("process ended", count=2)
    assert ops.metric(REQUESTS) == 20
    assert ops.metric("session_worker_inflight") in range(21), "those of the living alone"
    lab.open_gate()
    soon(ops.ready, 30)
    assert not {*ops.pids()} & {*pids}
    assert_answered_once(lab, request_ids)
    soon(lambda: ops.metric(REQUESTS, outcome="completed") == 40)
    worker.terminate()
    assert worker.wait() == 0


def test_a_killed_supervisor_leaves_no_orphans_and_loses_nothing(lab: Lab, ops: Ops, up: Up) -> None:
    """Its processes finish what they run, and end."""
    worker, pids = up(shutdown_grace=30)
    request_ids = send(lab, 20, gate=str(lab.gate))
    lab.running(20)
    worker.send_signal(signal.SIGKILL)
    worker.wait_for("draining", count=2)
    lab.open_gate()
    soon(lambda: gone(pids))
    assert_answered_once(lab, request_ids)
    assert set(lab.runs().values()) == {1}


def test_ctrl_c_is_the_supervisors_and_drains_all(lab: Lab, ops: Ops, up: Up) -> None:
    """A terminal sends it to the whole group. A process that gets one all the same pays no heed."""
    worker, pids = up(shutdown_grace=30, command=("setsid", PROGRAM, "run"))
    request_ids = send(lab, 20, gate=str(lab.gate))
    lab.running(20)
    for pid in pids:
        os.kill(pid, signal.SIGINT)
    request_ids += send(lab, 5)
    lab.running(25)
    assert ops.ready()
    assert not any(line["event"] == "draining" for line in worker.logs)
    os.killpg(worker.pid, signal.SIGINT)
    worker.wait_for("draining", count=2)
    assert "shutdown" in ops.red()
    assert ops.live()
    lab.open_gate()
    assert worker.wait(30) == 0
    assert gone(pids)
    assert_answered_once(lab, request_ids)


def test_signals_to_all_at_once_drain_as_one_does(lab: Lab, ops: Ops, up: Up) -> None:
    """As a service manager sends them. The end of the pipe on top of it is no second signal."""
    worker, pids = up(shutdown_grace=30)
    request_ids = send(lab, 20, gate=str(lab.gate))
    lab.running(20)
    for pid in [*pids, worker.pid]:
        os.kill(pid, signal.SIGTERM)
    worker.wait_for("draining", count=2)
    lab.open_gate()
    assert worker.wait(30) == 0
    assert_answered_once(lab, request_ids)


def test_a_second_signal_ends_all_at_once(lab: Lab, ops: Ops, up: Up) -> None:
    worker, pids = up(shutdown_grace=60)
    send(lab, 1, gate=str(lab.gate))
    lab.running(1)
    worker.terminate()
    worker.wait_for("draining")
    worker.terminate()
    assert worker.wait(5) == 1
    soon(lambda: gone(pids))


def test_each_process_has_resources_of_its_own_for_as_long_as_it_lives(
    lab: Lab, up: Up, tmp_path: Path
) -> None:
    """One that dies leaves none behind; the one in its place makes its own."""
    notes = tmp_path / "notes"
    notes.touch()

    def noted(what: str) -> set[int]:
        lines = [line.split() for line in notes.read_text().splitlines()]
        pids = [int(pid) for pid, said in lines if said == what]
        assert len(pids) == len({*pids}), "once for each process"
        return {*pids}

    worker, pids = up(app=SHOP, handler="off", env={"TEST_NOTES": str(notes)})
    assert noted("entered") == {*pids}
    os.kill(pids[0], signal.SIGKILL)
    soon(lambda: len(noted("entered")) == 3, 30)
    worker.wait_for("worker up", count=3)
    worker.terminate()
    assert worker.wait(30) == 0
    assert noted("left") == noted("entered") - {pids[0]}


def test_resources_that_do_not_come_again_are_told_each_time(
    lab: Lab, ops: Ops, up: Up, tmp_path: Path
) -> None:
    """The worker goes on with what it has, is not ready, and tries again after growing pauses."""
    wrong = tmp_path / "wrong"
    env = {"TEST_NOTES": os.devnull, "TEST_LIFESPAN": str(wrong)}
    worker, pids = up(app=SHOP, handler="off", env=env)
    wrong.write_text("start")
    os.kill(pids[0], signal.SIGKILL)
    ended = [worker.wait_for("process ended", 60, count) for count in (1, 2, 3)]
    assert [line["exit_code"] for line in ended] == [-signal.SIGKILL, 1, 1]
    assert ended[2]["next_in"] > 0
    said = [line for line in worker.output if "the app's lifespan failed: ConnectionError" in line]
    assert len(said) >= 2
    assert "process 1" in " ".join(ops.red().values())
    wrong.unlink()
    soon(ops.ready, 60)


def test_a_mistake_in_the_settings_is_said_once(lab: Lab, empty_postgresql_url: str) -> None:
    worker = lab.worker(wait=False, processes=3, ledger_url=empty_postgresql_url)
    assert worker.wait() == 1
    [sentence] = [line for line in worker.output if line.startswith("session-worker: ")]
    assert "ledger upgrade" in sentence
    assert "Traceback" not in "".join(worker.output)


def test_many_processes_set_up_an_empty_broker_and_database_together(
    lab: Lab, up: Up, empty_postgresql_url: str
) -> None:
    lab.ledger_url = empty_postgresql_url
    up(migrate="true")
    assert_answered_once(lab, send(lab, 20))


def test_secrets_are_in_no_arguments_and_no_environment(lab: Lab, ops: Ops, tmp_path: Path) -> None:
    """Whoever may look at processes sees neither URL."""
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    (secrets / "session_worker_amqp_url").write_text(lab.url)
    (secrets / "session_worker_ledger_url").write_text(lab.ledger_url)
    worker = WorkerProcess(
        env={"PYTHONPATH": str(ROOT), "SESSION_WORKER_SECRETS_DIR": str(secrets), "TEST_RUNS": "/dev/null"},
        folder=tmp_path,
        processes=2,
        ops_port=ops.port,
        handler=HANDLER,
    )
    lab.workers.append(worker)
    soon(ops.ready, 30)
    for pid in ops.pids():
        shown = Path(f"/proc/{pid}/cmdline").read_bytes() + Path(f"/proc/{pid}/environ").read_bytes()
        assert b"session_worker.cli.supervised_worker" in shown
        assert not any(scheme in shown for scheme in (b"amqp://", b"postgresql://"))
