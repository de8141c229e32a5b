"""One session per request, whatever is sent twice, dies or is cut off."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

from session_contracts import RequestStatus
from tests.support.lab import code_of, request
from tests.support.tcp_proxy import TcpProxy

if TYPE_CHECKING:
    from tests.support.lab import Lab
    from tests.support.requester import RawReply

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
