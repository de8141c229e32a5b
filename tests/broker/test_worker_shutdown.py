"""How a worker ends: what runs is finished or handed back, and nothing hangs."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from typing import TYPE_CHECKING

from session_contracts import RequestStatus
from tests.support.lab import code_of, lock_ledger, send
from tests.support.tcp_proxy import TcpProxy

if TYPE_CHECKING:
    from tests.support.lab import Lab


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


def test_what_does_not_finish_within_the_grace_goes_back_uncounted(lab: Lab) -> None:
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
