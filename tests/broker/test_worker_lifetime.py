"""How a worker comes up and what it needs for that, what its ops port says meanwhile, and how it ends."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from uuid import uuid4

import pytest

from session_contracts import RequestStatus
from session_worker.sandbox.workspace import free_port
from tests.support.lab import code_of, lock_ledger, request, send
from tests.support.servers import RabbitMQ
from tests.support.tcp_proxy import TcpProxy
from tests.support.waiting import soon

if TYPE_CHECKING:
    from tests.support.lab import Lab
    from tests.support.ops import Ops
    from tests.support.worker_process import WorkerProcess


# ------------------------------------------------------------------------------------------- the start


def test_a_full_queue_at_the_start_leaves_nothing_unanswered(lab: Lab) -> None:
    """Deliveries arrive while the link is being put together; their replies go out by it all the same."""
    lab.worker().close()
    request_ids = {str(uuid4()) for _ in range(300)}
    with lab.requester() as requester:
        for request_id in request_ids:
            requester.send(request(request_id))
        lab.worker()
        replies = requester.collect(len(request_ids), 30)
    assert {reply.properties.correlation_id for reply in replies} == request_ids
    lab.quiet()


def test_a_vhost_that_is_down_is_waited_for(lab: Lab) -> None:
    """So is every vhost of a node that boots; one that does not exist is said at once."""
    if not isinstance(lab.broker, RabbitMQ):
        pytest.skip("it takes a node of our own")
    name = ",".join(str(byte) for byte in lab.vhost.encode())
    lab.broker.eval(f"rabbit_vhost_sup_sup:stop_and_delete_vhost(<<{name}>>)")
    worker = lab.worker(wait=False)
    assert "is down" in worker.wait_for("no link to the broker")["reason"]
    lab.broker.eval(f"{{ok, _}} = rabbit_vhost_sup_sup:start_vhost(<<{name}>>)")
    worker.wait_up()


# ------------------------------------------------------------------------- what it needs of the broker


def add_user(lab: Lab, configure: str, write: str, read: str) -> str:
    return lab.broker.add_user(f"user-{uuid4().hex[:8]}", "secret", lab.vhost, configure, write, read)


def last_words(worker: WorkerProcess, seconds: float = 12.0) -> str:
    """The last line of a worker that cannot start: it ends in time, without a traceback and with an error."""
    assert worker.wait(seconds) != 0
    output = "".join(worker.output)
    assert "Traceback" not in output, output
    return worker.output[-1]


def test_a_worker_that_declares_nothing_needs_no_configure_permission(lab: Lab) -> None:
    """Reading the two queues of its operation and writing to the default exchange is all."""
    lab.declare()
    url = add_user(lab, "^$", r"^amq\.default$", r"^session\.create(\.undelivered)?$")
    lab.worker(amqp_url=url, declare="false", operations="create_session")
    with lab.requester() as requester:
        assert code_of(requester.ask(request(fails=1))) is None
    lab.quiet()


def test_a_worker_that_may_not_declare_says_so(lab: Lab) -> None:
    words = last_words(lab.worker(wait=False, amqp_url=add_user(lab, "^$", ".*", ".*")))
    assert "configure" in words
    assert "SESSION_WORKER_DECLARE" in words


def test_a_missing_queue_is_named(lab: Lab) -> None:
    lab.declare()
    lab.broker.delete_queue(lab.vhost, "session.create.retry.1s")
    words = last_words(lab.worker(wait=False, declare="false"))
    assert "session.create.retry.1s" in words
    assert "session-worker topology apply" in words


def test_a_queue_with_another_argument_is_named(lab: Lab) -> None:
    with lab.requester() as requester:
        arguments = {"x-queue-type": "quorum", "x-overflow": "reject-publish", "x-delivery-limit": 10**9}
        requester.channel.queue_declare("session.create.dead", durable=True, arguments=arguments)
    words = last_words(lab.worker(wait=False))
    assert "session.create.dead" in words
    assert "x-max-length-bytes" in words


def test_a_broker_that_cannot_be_used_is_one_sentence(lab: Lab) -> None:
    """Wrong password, vhost, user's vhost, port or host: said in time, and never with the password."""
    right = lab.url.rpartition("/")[0]
    foreign = add_user(lab, ".*", ".*", ".*").rpartition("/")[0]
    wrong = {
        re.sub(":[^/@]+@", ":pass-word@", lab.url): "refused the login",
        f"{right}/nowhere": "nowhere",
        f"{foreign}/%2F": "vhost",
        f"amqp://guest:pass-word@127.0.0.1:{free_port()}/": "cannot be reached",
        "amqp://guest:pass-word@no-such-host.invalid/": "no-such-host.invalid",
    }
    workers = {url: lab.worker(wait=False, amqp_url=url) for url in wrong}
    deadline = time.monotonic() + 60
    for url, words in wrong.items():
        said = last_words(workers[url], deadline - time.monotonic())
        assert words in said, said
        assert "pass-word" not in "".join(workers[url].output)


# --------------------------------------------------------------------------------------------- the end


def assert_answered(lab: Lab, request_ids: list[str]) -> None:
    replies = lab.take("session.replies", len(request_ids), 30)
    assert {code_of(reply) for reply in replies} == {None}
    assert sorted(reply.properties.correlation_id for reply in replies) == sorted(request_ids)


def test_sigterm_drains_within_the_grace(lab: Lab) -> None:
    """What runs finishes, is answered and acknowledged before the exit; what waits is left to others."""
    worker = lab.worker(concurrency=20, shutdown_grace=30)
    request_ids = send(lab, 30, gate=str(lab.gate))
    lab.running(20)
    worker.terminate()
    worker.wait_for("draining")
    lab.open_gate()
    assert worker.wait(15) == 0
    drained = set(lab.runs())
    assert_answered(lab, list(drained))
    lab.holds("session.create", 10)
    lab.worker()
    assert_answered(lab, list(set(request_ids) - drained))
    assert set(lab.runs().values()) == {1}


def test_a_terminal_that_is_closed_drains_the_worker(lab: Lab) -> None:
    """Of which both the kernel and the shell tell: two signals."""
    worker = lab.worker(shutdown_grace=30)
    request_ids = send(lab, 1, gate=str(lab.gate))
    lab.running(1)
    os.kill(worker.pid, signal.SIGHUP)
    worker.wait_for("draining")
    os.kill(worker.pid, signal.SIGHUP)
    lab.open_gate()
    assert worker.wait(15) == 0
    assert_answered(lab, request_ids)


def test_a_request_that_does_not_finish_within_the_grace_goes_back_uncounted(lab: Lab) -> None:
    """It is pending again with no attempt spent, and the next worker does it at its first attempt."""
    worker = lab.worker(shutdown_grace=0)
    request_ids = send(lab, 20, gate=str(lab.gate))
    lab.running(20)
    worker.terminate()
    assert worker.wait(10) == 0
    entries = lab.entries(request_ids)
    assert {(entry.status, entry.attempt) for entry in entries} == {(RequestStatus.PENDING, 0)}
    assert {entry.history[-1]["detail"] for entry in entries} == {"handed back"}
    lab.holds("session.create", 20)
    lab.open_gate()
    lab.worker()
    assert_answered(lab, request_ids)
    assert {entry.attempt for entry in lab.entries(request_ids)} == {1}
    lab.quiet()


def test_a_handler_that_will_not_end_is_handed_back_all_the_same(lab: Lab) -> None:
    """Nothing is counted against its request: neither an attempt nor a crash."""
    worker = lab.worker(shutdown_grace=0)
    [request_id] = send(lab, 1, do="stubborn")
    lab.running(1)
    worker.terminate()
    assert worker.wait(20) == 0, "everything was closed in order, whatever the handler does"
    entry = lab.entry(request_id)
    assert (entry.status, entry.attempt) == (RequestStatus.PENDING, 0)
    assert entry.history[-1]["detail"] == "handed back"


def test_a_second_signal_ends_the_worker_at_once(lab: Lab) -> None:
    worker = lab.worker(shutdown_grace=60)
    send(lab, 1, gate=str(lab.gate))
    lab.running(1)
    worker.terminate()
    worker.wait_for("draining")
    worker.terminate()
    assert worker.wait(2) == 1
    worker.wait_for("worker ends at once")


async def test_shutdown_hands_back_although_the_broker_is_silent(lab: Lab) -> None:
    """A blackholed connection takes no time from the release: no attempt and no crash is counted."""
    async with TcpProxy(lab.url) as proxy:
        worker = await asyncio.to_thread(lab.worker, amqp_url=proxy.url, shutdown_grace=0)
        request_ids = await asyncio.to_thread(send, lab, 5, gate=str(lab.gate))
        await asyncio.to_thread(lab.running, 5)
        proxy.mode = "stall"
        began = time.monotonic()
        worker.terminate()
        assert await asyncio.to_thread(worker.wait, 20) == 0
        assert time.monotonic() - began < 10
    entries = await asyncio.to_thread(lab.entries, request_ids)
    assert {(entry.status, entry.attempt) for entry in entries} == {(RequestStatus.PENDING, 0)}


async def test_shutdown_does_not_wait_for_a_broker_that_is_gone(lab: Lab) -> None:
    async with TcpProxy(lab.url) as proxy:
        worker = await asyncio.to_thread(lab.worker, amqp_url=proxy.url)
        await proxy.refuse()
        proxy.reset()
        await asyncio.to_thread(worker.wait_for, "no link to the broker")
        worker.terminate()
        assert await asyncio.to_thread(worker.wait, 5) == 0


def test_shutdown_waits_once_for_what_a_locked_ledger_keeps_from_ending(lab: Lab) -> None:
    """The grace passes once, then everything is closed in order, and the next worker takes it over."""
    worker = lab.worker(shutdown_grace=1)
    [request_id] = send(lab, 1, gate=str(lab.gate))
    lab.running(1)
    unlock = lock_ledger(lab.ledger_url)
    try:
        worker.wait_for("consuming paused")
        worker.terminate()
        assert worker.wait(30) == 0
    finally:
        unlock()
    assert [line["event"] for line in worker.logs].count("draining") == 1
    lab.open_gate()
    lab.worker()
    assert_answered(lab, [request_id])
    assert lab.sessions() == 1


def test_shutdown_ends_although_the_ledger_is_locked(lab: Lab) -> None:
    """Its deadline holds, and what it could not write down is done by the next worker."""
    worker = lab.worker(shutdown_grace=0)
    unlock = lock_ledger(lab.ledger_url)
    try:
        request_ids = send(lab, 5)
        worker.wait_for("consuming paused")
        worker.terminate()
        worker.wait(15)
    finally:
        unlock()
    lab.worker()
    assert_answered(lab, request_ids)
    assert lab.sessions() == 5


@pytest.mark.parametrize("script", [{"thread": "gate"}, {"do": "own thread"}], ids=["pool", "own"])
def test_an_exit_does_not_wait_for_threads(lab: Lab, script: dict[str, str]) -> None:
    """Everything was closed in order: what ran is handed back, and the exit code says so."""
    worker = lab.worker(shutdown_grace=0)
    request_ids = send(lab, 3, **(script if "do" in script else {"thread": str(lab.gate)}))
    lab.running(3)
    worker.terminate()
    assert worker.wait(30) == 0
    entries = lab.entries(request_ids)
    assert {(entry.status, entry.attempt) for entry in entries} == {(RequestStatus.PENDING, 0)}
    assert {entry.history[-1]["detail"] for entry in entries} == {"handed back"}


# -------------------------------------------------------------------------------------------- the ops port

LISTENING = "0A"
BLOCKING = "tests.support.handlers.blocking:block"


async def red(ops: Ops, *names: str) -> dict[str, str]:
    """Wait until just these checks are red; their reasons."""

    await asyncio.to_thread(soon, lambda: ops.red().keys() == set(names))
    return await asyncio.to_thread(ops.red)


async def green(ops: Ops) -> None:
    await asyncio.to_thread(soon, ops.ready)


async def test_a_worker_is_live_but_not_ready_until_it_consumes(lab: Lab, ops: Ops) -> None:
    """The broker is not there yet, as when a whole machine boots."""
    async with TcpProxy(lab.url) as proxy:
        await proxy.refuse()
        worker = await asyncio.to_thread(lab.worker, wait=False, amqp_url=proxy.url, ops_port=ops.port)
        await asyncio.to_thread(worker.wait_for, "no link to the broker")
        assert await asyncio.to_thread(ops.live)
        reasons = await red(ops, "broker", "consumer")
        assert f"127.0.0.1:{proxy.port}" in reasons["broker"]
        await proxy.accept()
        await green(ops)


async def test_a_lost_broker_is_named_until_it_is_back(lab: Lab, ops: Ops) -> None:
    async with TcpProxy(lab.url) as proxy:
        await asyncio.to_thread(lab.worker, amqp_url=proxy.url, ops_port=ops.port)
        await green(ops)
        assert await asyncio.to_thread(ops.metric, "session_worker_broker_connected") == 1
        await proxy.refuse()
        proxy.reset()
        reasons = await red(ops, "broker", "consumer")
        assert f":{urlsplit(lab.url).password}@" not in str(reasons)
        assert await asyncio.to_thread(ops.live)
        assert await asyncio.to_thread(ops.metric, "session_worker_broker_connected") == 0
        await proxy.accept()
        await green(ops)


async def test_a_ledger_that_is_away_is_named_although_nobody_asks_for_anything(
    lab: Lab, ops: Ops, postgresql_url: str
) -> None:
    async with TcpProxy(postgresql_url) as proxy:
        await asyncio.to_thread(lab.worker, ledger_url=proxy.url, ops_port=ops.port)
        await green(ops)
        await proxy.refuse()
        proxy.reset()
        reasons = await red(ops, "ledger", "consumer")
        assert reasons["consumer"] == "paused: the ledger is away"
        assert "PostgreSQL" in reasons["ledger"]
        assert await asyncio.to_thread(ops.metric, "session_worker_consumer_active") == 0
        await proxy.accept()
        await green(ops)


def test_a_copy_that_the_broker_does_not_take_is_told(lab: Lab, ops: Ops) -> None:
    lab.declare()
    lab.worker(declare="false", ops_port=ops.port)
    lab.broker.delete_queue(lab.vhost, "session.create.retry.1s")
    send(lab, 1, fails=1)
    soon(lambda: ops.red().keys() == {"copies"})
    lab.declare()
    soon(ops.ready)


def test_a_draining_worker_is_not_ready_and_answers_to_the_end(lab: Lab, ops: Ops) -> None:
    worker = lab.worker(ops_port=ops.port, shutdown_grace=30)
    send(lab, 3, gate=str(lab.gate))
    lab.running(3)
    worker.terminate()
    worker.wait_for("draining")
    assert ops.red()["shutdown"] == "the worker was told to stop"
    assert ops.live()
    assert ops.metric("session_worker_inflight") == 3
    lab.open_gate()
    assert worker.wait(15) == 0
    assert not ops.ready(), "nobody answers any more"


@pytest.mark.parametrize("processes", [1, 2])
def test_a_handler_that_blocks_the_loop_is_seen_from_outside(
    lab_on_postgresql: Lab, ops: Ops, processes: int
) -> None:
    """Neither live nor ready while the loop stands still; both when it turns again."""
    lab_on_postgresql.worker(handler=BLOCKING, ops_port=ops.port, processes=processes)
    soon(ops.ready)
    assert ops.live()
    send(lab_on_postgresql, 1, gate=str(lab_on_postgresql.gate))
    soon(lambda: not ops.live())
    assert "the event loop has not turned for" in ops.red()["loop"]
    assert ops.metric("session_worker_broker_connected") == processes, "the last that was heard"
    lab_on_postgresql.open_gate()
    soon(ops.live)
    soon(ops.ready)


@pytest.mark.parametrize("processes", [1, 2])
def test_a_stop_while_the_handler_is_being_loaded_is_quick_and_clean(
    lab_on_postgresql: Lab, ops: Ops, processes: int
) -> None:
    """Nothing was begun: exit code 0 at once, however long the loading takes. Until then it is live."""
    loading = lab_on_postgresql.folder / "loading"
    worker = lab_on_postgresql.worker(
        wait=False,
        env={"TEST_LOADING": str(loading)},
        handler=BLOCKING,
        ops_port=ops.port,
        processes=processes,
    )
    soon(loading.exists)
    assert ops.live()
    assert ops.red() == {"loop": "starting"}
    worker.terminate()
    assert worker.wait(10) == 0


def test_a_taken_port_is_one_sentence_that_names_the_setting(lab_on_postgresql: Lab, ops: Ops) -> None:
    lab_on_postgresql.worker(ops_port=ops.port)
    for processes in (1, 2):
        worker = lab_on_postgresql.worker(wait=False, ops_port=ops.port, processes=processes)
        assert worker.wait() == 1
        [sentence] = worker.output
        assert f"port {ops.port} of 127.0.0.1 is taken" in sentence
        assert "SESSION_WORKER_OPS_PORT" in sentence


def test_no_port_is_opened_unless_it_is_asked_for(lab: Lab) -> None:
    worker = lab.worker()
    with lab.requester() as requester:
        requester.ask(request(str(uuid4())))
    own = {path.readlink().name for path in Path(f"/proc/{worker.pid}/fd").iterdir()}
    sockets = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    assert own & {f"socket:[{fields[9]}]" for fields in sockets}, "its connections are seen"
    assert not own & {f"socket:[{fields[9]}]" for fields in sockets if fields[3] == LISTENING}
