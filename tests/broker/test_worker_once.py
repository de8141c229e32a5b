"""One session for each request, whatever is sent twice, dies, is cut off, or is away for a while."""

from __future__ import annotations

import asyncio
import re
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, closing
from threading import Barrier
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pika
import pytest

from session_contracts import RequestStatus
from session_contracts.amqp import REQUEUE_COUNT
from session_worker.ledger import upgrade
from tests.support.lab import answer, code_of, lock_ledger, open_lab, request, send
from tests.support.servers import PostgreSQL
from tests.support.tcp_proxy import TcpProxy
from tests.support.waiting import soon

if TYPE_CHECKING:
    from asyncio import StreamReader, StreamWriter
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.lab import Lab
    from tests.support.ops import Ops
    from tests.support.requester import RawReply
    from tests.support.servers import RabbitMQ
    from tests.support.worker_process import WorkerProcess


# --------------------------------------------------------------------------- sent twice, dead, cut off

MANY = 200


def send_many(lab: Lab, **script: Any) -> list[str]:
    """Publish requests that are answered on the default reply queue; their ids."""
    request_ids = [str(uuid4()) for _ in range(MANY)]
    with lab.requester() as requester:
        for request_id in request_ids:
            requester.send(request(request_id, **script), reply_to=None)
    return request_ids


def assert_each_answered_once_completed(lab: Lab, request_ids: list[str]) -> None:
    replies = {reply.properties.correlation_id: reply for reply in lab.take("session.replies", MANY, 40)}
    assert set(replies) == set(request_ids)
    assert {code_of(reply) for reply in replies.values()} == {None}
    assert lab.sessions() == MANY


def test_one_request_sent_50_times_at_once_makes_one_session(lab_on_each_ledger: Lab) -> None:
    """From 5 connections to 2 workers: 50 replies, all bytes equal, all but the first marked as replayed."""
    lab = lab_on_each_ledger
    for _ in range(2):
        lab.worker()
    body = request(title="only one")
    together = Barrier(5)

    def ask(_: int) -> list[RawReply]:
        with lab.requester() as requester:
            together.wait(10)
            for _ in range(10):
                requester.send(body)
            return requester.collect(10, 30)

    with ThreadPoolExecutor(5) as pool:
        replies = [reply for ten in pool.map(ask, range(5)) for reply in ten]
    assert len(replies) == 50
    assert len({reply.body for reply in replies}) == 1
    assert len([reply for reply in replies if reply.headers.get("x-idempotent-replayed")]) == 49
    assert lab.sessions() == 1
    lab.quiet()


def test_killing_a_worker_with_200_requests_in_flight_loses_none(lab_on_each_ledger: Lab) -> None:
    """Another worker answers all of them: 200 sessions, none twice, no attempt spent."""
    lab = lab_on_each_ledger
    doomed = lab.worker()
    request_ids = send_many(lab, gate=str(lab.gate))
    lab.running(MANY)
    lab.worker()
    doomed.kill()
    lab.open_gate()
    assert_each_answered_once_completed(lab, request_ids)
    entries = lab.entries(request_ids)
    assert {(entry.status, entry.attempt) for entry in entries} == {(RequestStatus.COMPLETED, 1)}
    assert len({entry.session_id for entry in entries}) == MANY
    lab.quiet()


@pytest.mark.parametrize("fault", ["operator", "reset", "fin"])
async def test_a_connection_lost_under_200_handlers_runs_none_of_them_twice(lab: Lab, fault: str) -> None:
    """Closed by an operator, reset, or ended in good order: no attempt is spent and all are answered."""
    async with TcpProxy(lab.url) as proxy:
        worker = await asyncio.to_thread(lab.worker, amqp_url=proxy.url)
        request_ids = await asyncio.to_thread(send_many, lab, gate=str(lab.gate))
        await asyncio.to_thread(lab.running, MANY)
        match fault:
            case "operator":
                await asyncio.to_thread(lab.drop_connections)
            case "reset":
                proxy.reset()
            case _:
                proxy.cut()
        await asyncio.to_thread(worker.wait_for, "link lost")
        await asyncio.to_thread(worker.wait_for, "worker up", count=2)
        lab.open_gate()
        await asyncio.to_thread(assert_each_answered_once_completed, lab, request_ids)
    assert set(lab.runs().values()) == {1}
    entries = await asyncio.to_thread(lab.entries, request_ids)
    assert {entry.attempt for entry in entries} == {1}
    await asyncio.to_thread(lab.quiet)


# ------------------------------------------------------------------------------- in two workers' hands


def requeues(lab: Lab) -> int:
    """The requeues of the copy that waits in the retry queue; 0 when none waits."""
    with closing(pika.BlockingConnection(pika.URLParameters(lab.url))) as connection:
        # While somebody holds it the copy does not come round: it is left alone most of the time.
        time.sleep(0.5)
        _, properties, _ = connection.channel().basic_get("session.create.retry.1s")
        return 0 if properties is None else int(properties.headers.get(REQUEUE_COUNT, 0))


def test_a_duplicate_goes_round_while_another_worker_runs_the_request(lab: Lab) -> None:
    """Time and again, for longer than a dead holder would be trusted; then it gets the stored answer."""
    for _ in range(2):
        lab.worker(concurrency=1)
    body = request(gate=str(lab.gate))
    with lab.requester() as requester:
        requester.send(body)
        lab.running(1)
        requester.send(body)
        soon(lambda: requeues(lab) >= 3, 40)
        lab.open_gate()
        first, again = requester.collect(2)
    assert first.body == again.body
    assert sorted(len(reply.headers) for reply in (first, again)) == [0, 1]
    assert list(lab.runs().values()) == [1]
    lab.quiet()


def test_requests_that_saw_workers_die_hold_up_nobody_else(lab: Lab) -> None:
    """They run one at a time, and those that wait for it leave slots to the others; all are answered."""
    lab.declare()
    gated = send(lab, 4, gate=str(lab.gate))
    for runs in (1, 2):
        doomed = lab.worker(concurrency=4, holder_timeout=1)
        soon(lambda: list(lab.runs().values()) == [runs] * 4, 30)  # noqa: B023
        doomed.kill()
    lab.worker(concurrency=4, holder_timeout=1)
    soon(lambda: sum(lab.runs().values()) == 9, 30)
    (fresh,) = send(lab, 1)
    lab.noted(fresh, "sent")
    assert sum(lab.runs().values()) == 10
    lab.open_gate()
    soon(lambda: {entry.status for entry in lab.entries(gated)} == {RequestStatus.COMPLETED}, 30)
    lab.quiet()


def test_a_handler_that_blocks_its_event_loop_is_not_taken_for_dead(lab: Lab) -> None:
    """The worker's name is renewed meanwhile: nobody takes the request over, no crash is counted."""
    for _ in range(2):
        lab.worker(concurrency=1, holder_timeout=1)
    body = request(do="block")
    with lab.requester() as requester:
        for _ in range(2):
            requester.send(body)
            lab.running(1)
        replies = requester.collect(2, 30)
    assert len({reply.body for reply in replies}) == 1
    assert answer(replies[0])["metadata"]["attempts"] == 1
    assert list(lab.runs().values()) == [1]
    lab.quiet()


def test_a_frozen_worker_that_wakes_up_too_late_changes_nothing(lab: Lab) -> None:
    """Its request was taken over and finished: it answers with what the other one stored."""
    frozen = lab.worker(concurrency=1)
    body = request(gate=str(lab.gate))
    with lab.requester() as requester:
        requester.send(body)
        lab.running(1)
        frozen.send_signal(signal.SIGSTOP)
        try:
            other = lab.worker()
            lab.open_gate()
            requester.send(body)
            [first] = requester.collect(1, 30)
            finished = other.wait_for("request finished")
        finally:
            frozen.send_signal(signal.SIGCONT)
        frozen.wait_for("request was taken over")
        late = requester.collect(2)[1]
    assert code_of(first) is None
    assert late.body == first.body
    assert late.headers == {"x-idempotent-replayed": True}
    assert answer(first)["request_id"] == finished["request_id"]
    assert lab.sessions() == 1
    lab.quiet()


@pytest.fixture
def own_lab(own_rabbitmq: RabbitMQ, sqlite_url: str, tmp_path: Path) -> Iterator[Lab]:
    """A lab on a node that may be stopped."""
    with open_lab(own_rabbitmq, sqlite_url, tmp_path) as lab:
        yield lab


@pytest.fixture(scope="module")
def own_postgresql() -> Iterator[PostgreSQL]:
    """A server that may be stopped."""
    with PostgreSQL(durable=False) as server:
        yield server


def assert_all_completed_at_the_first_attempt(lab: Lab, request_ids: list[str]) -> None:
    replies = lab.take("session.replies", len(request_ids), 30)
    assert {code_of(reply) for reply in replies} == {None}
    assert sorted(reply.properties.correlation_id for reply in replies) == sorted(request_ids)
    assert set(lab.runs().values()) == {1}
    entries = lab.entries(request_ids)
    assert {(entry.status, entry.attempt) for entry in entries} == {(RequestStatus.COMPLETED, 1)}
    assert lab.sessions() == len(request_ids)
    lab.quiet()


def happened(worker: WorkerProcess, event: str) -> int:
    return sum(line["event"] == event for line in worker.logs)


# --------------------------------------------------------------------------------------- the broker


def test_a_deleted_work_queue_is_declared_anew(lab: Lab) -> None:
    """The broker cancels the consumer; what is sent afterwards is served."""
    worker = lab.worker()
    lab.broker.delete_queue(lab.vhost, "session.create")
    worker.wait_for("worker up", count=2)
    assert_all_completed_at_the_first_attempt(lab, send(lab, 5))


def test_a_deleted_retry_queue_is_declared_anew_when_it_is_missed(lab: Lab) -> None:
    """The copy that found no queue is not lost: its request comes again, and goes on to its next attempt."""
    lab.worker()
    with lab.requester() as requester:
        requester.channel.queue_delete("session.create.retry.1s")
        reply = requester.ask(request(fails=1), deadline=30)
    assert code_of(reply) is None
    lab.quiet()


def test_a_deleted_reply_queue_is_declared_anew_when_it_is_missed(lab: Lab) -> None:
    """The answer that found no queue comes with the next delivery of its request."""
    worker = lab.worker()
    with lab.requester() as requester:
        requester.channel.queue_delete("session.replies")
    request_ids = send(lab, 3)
    worker.wait_for("worker up", count=2)
    assert_all_completed_at_the_first_attempt(lab, request_ids)


def test_a_pause_fetches_no_more_than_there_is_room_for(lab: Lab, ops: Ops) -> None:
    """A new consumer would get a whole prefetch, and all that is fetched waits for the same few slots."""
    worker = lab.worker(concurrency=5, ops_port=ops.port)
    request_ids = send(lab, 20, gate=str(lab.gate))
    lab.running(5)
    unlock = lock_ledger(lab.ledger_url)
    try:
        worker.wait_for("consuming paused")
    finally:
        unlock()
    soon(lambda: set(ops.red()) == {"consumer"}, 30)
    assert "still runs" in ops.red()["consumer"]
    time.sleep(0.5)
    with lab.requester() as requester:
        assert requester.ready("session.create") == 15
    lab.open_gate()
    worker.wait_for("consuming again")
    assert_all_completed_at_the_first_attempt(lab, request_ids)


def test_a_memory_alarm_pauses_consuming_and_loses_nothing(own_rabbitmq: RabbitMQ, own_lab: Lab) -> None:
    """Replies in flight wait until the broker takes them; the link lives on."""
    worker = own_lab.worker(concurrency=5)
    request_ids = send(own_lab, 10, gate=str(own_lab.gate))
    own_lab.running(5)
    own_rabbitmq.set_alarm(True)
    try:
        own_lab.open_gate()
        paused = worker.wait_for("consuming paused")
    finally:
        own_rabbitmq.set_alarm(False)
    assert (paused["broker"], paused["ledger"]) == ("blocked", "up")
    worker.wait_for("consuming again")
    assert_all_completed_at_the_first_attempt(own_lab, request_ids)
    assert happened(worker, "link lost") == 0


@pytest.mark.parametrize("how", ["stop_app", "stop"])
def test_a_broker_that_restarts_finds_every_request_done(
    own_rabbitmq: RabbitMQ, own_lab: Lab, how: str
) -> None:
    worker = own_lab.worker(concurrency=20)
    request_ids = send(own_lab, 30, gate=str(own_lab.gate))
    own_lab.running(20)
    if how == "stop":
        own_rabbitmq.stop()
        own_rabbitmq.start()
    else:
        own_rabbitmq.stop_app()
        own_rabbitmq.start_app()
    worker.wait_for("worker up", count=2)
    own_lab.open_gate()
    assert_all_completed_at_the_first_attempt(own_lab, request_ids)


async def test_silent_connections_are_found_out_and_replaced(lab: Lab) -> None:
    """Nothing comes through, or nothing in one direction: the heartbeat of the URL tells, the worker connects
    anew, and what other workers get delivered again meanwhile still runs once."""
    request_ids: list[str] = []
    async with AsyncExitStack() as stack:
        proxies = [await stack.enter_async_context(TcpProxy(lab.url)) for _ in range(3)]
        workers = await asyncio.gather(
            *(
                asyncio.to_thread(lab.worker, amqp_url=f"{proxy.url}?heartbeat=2", concurrency=10)
                for proxy in proxies
            )
        )
        request_ids = await asyncio.to_thread(send, lab, 30, gate=str(lab.gate))
        await asyncio.to_thread(lab.running, 30)
        for proxy, mode in zip(proxies, ("stall", "stall-up", "stall-down"), strict=True):
            proxy.mode = mode  # type: ignore[assignment]
        await asyncio.gather(*(asyncio.to_thread(worker.wait_for, "link lost") for worker in workers))
        for proxy in proxies:
            proxy.mode = "pass"
        await asyncio.gather(*(asyncio.to_thread(worker.wait_for, "worker up", 30, 2) for worker in workers))
        lab.open_gate()
        await asyncio.to_thread(assert_all_completed_at_the_first_attempt, lab, request_ids)


# --------------------------------------------------------------------------------------- the ledger


class CountingProxy(TcpProxy):
    """Counts the deliveries that pass through it."""

    deliveries = 0

    async def _copy(self, reader: StreamReader, writer: StreamWriter, way: str) -> None:
        if way == "up":
            return await super()._copy(reader, writer, way)
        unread = b""
        while block := await reader.read(65_536):
            *before, unread = re.split(
                rb"\x00\x3c\x00\x3c.ctag", unread + block
            )  # basic.deliver, consumer's tag
            self.deliveries += len(before)
            writer.write(block)
            await writer.drain()
        return None


async def test_a_postgresql_that_is_away_pauses_consuming(
    rabbitmq: RabbitMQ, own_postgresql: PostgreSQL, tmp_path: Path
) -> None:
    """Stopped under load and started again: no attempt is spent, no handler runs twice, and every request is
    delivered once: nothing goes round in a loop meanwhile."""
    ledger_url = own_postgresql.createdb(f"test_{uuid4().hex[:12]}")
    await upgrade(ledger_url)
    with open_lab(rabbitmq, ledger_url, tmp_path) as lab:
        async with CountingProxy(lab.url) as proxy:
            worker = await asyncio.to_thread(lab.worker, amqp_url=proxy.url, concurrency=50)
            proxy.deliveries = 0  # what the worker has read so far is whose ledger the queues belong to
            request_ids = await asyncio.to_thread(send, lab, 100, gate=str(lab.gate))
            await asyncio.to_thread(lab.running, 50)
            await asyncio.to_thread(own_postgresql.stop)
            lab.open_gate()
            paused = await asyncio.to_thread(worker.wait_for, "consuming paused")
            assert paused["broker"] == "up"
            request_ids += await asyncio.to_thread(send, lab, 20)
            await asyncio.to_thread(own_postgresql.start)
            await asyncio.to_thread(worker.wait_for, "consuming again")
            await asyncio.to_thread(assert_all_completed_at_the_first_attempt, lab, request_ids)
            assert proxy.deliveries == len(request_ids)
            assert happened(worker, "link lost") == 0


def test_a_sqlite_file_locked_by_another_process_pauses_consuming(lab: Lab) -> None:
    worker = lab.worker()
    unlock = lock_ledger(lab.ledger_url)
    try:
        request_ids = send(lab, 20)
        worker.wait_for("consuming paused")
        request_ids += send(lab, 20)
    finally:
        unlock()
    worker.wait_for("consuming again")
    assert_all_completed_at_the_first_attempt(lab, request_ids)
