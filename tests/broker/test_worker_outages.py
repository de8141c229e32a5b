"""The broker or the ledger is away, slow or silent: the worker waits, and goes on by itself."""

from __future__ import annotations

import asyncio
import re
import time
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from session_contracts import RequestStatus
from session_worker.ledger import upgrade
from tests.support.lab import code_of, lock_ledger, open_lab, request, send
from tests.support.servers import PostgreSQL
from tests.support.tcp_proxy import TcpProxy
from tests.support.waiting import soon

if TYPE_CHECKING:
    from asyncio import StreamReader, StreamWriter
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.lab import Lab
    from tests.support.ops import Ops
    from tests.support.servers import RabbitMQ
    from tests.support.worker_process import WorkerProcess


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
