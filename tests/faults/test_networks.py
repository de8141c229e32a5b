"""Each way in which a network breaks, with a request at every step of its way when it does."""

from __future__ import annotations

import asyncio
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from tests.faults import audit
from tests.faults.halting_worker import STEPS, halting_id
from tests.faults.support import Scribe, declare_on, plan, settled, start_worker
from tests.support.tcp_proxy import Mode, TcpProxy
from tests.support.waiting import eventually, soon

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from tests.faults.book import Sending
    from tests.support.external_rabbitmq import ExternalRabbitMQ
    from tests.support.servers import RabbitMQ
    from tests.support.worker_process import WorkerProcess

pytestmark = pytest.mark.faults

SILENCE = 5.0
"""Seconds of a network that is silent or slow; a silent broker counts as lost after six (heartbeat 1)."""


async def cut(proxy: TcpProxy) -> None:
    proxy.cut()


async def reset(proxy: TcpProxy) -> None:
    proxy.reset()


async def away(proxy: TcpProxy) -> None:
    await proxy.refuse()
    proxy.reset()
    await asyncio.sleep(2)
    await proxy.accept()


def for_a_while(mode: Mode, seconds: float) -> Callable[[TcpProxy], Awaitable[None]]:
    async def change(proxy: TcpProxy) -> None:
        proxy.mode = mode
        await asyncio.sleep(seconds)
        proxy.mode = "pass"

    return change


FAULTS: dict[str, Callable[[TcpProxy], Awaitable[None]]] = {
    "cut": cut,
    "reset": reset,
    "away": away,
    "stalled": for_a_while("stall", SILENCE),
    "dead": for_a_while("stall", SILENCE + 5),
    "half-open, up": for_a_while("stall-up", SILENCE),
    "half-open, down": for_a_while("stall-down", SILENCE + 5),
    "slow": for_a_while("slow", 3.0),
}
every_fault = pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)


def halted(step: str) -> Sending:
    """A request that halts at a step; its correlation id is its request id, which every step sees."""
    sending = plan(None)
    assert sending.request_id is not None
    sending = plan(None, halting_id(step, sending.request_id))
    sending.correlation_id = sending.request_id or ""
    return sending


@asynccontextmanager
async def halted_worker(
    broker_url: str, worker_urls: dict[str, str], folder: Path
) -> AsyncIterator[tuple[WorkerProcess, Scribe]]:
    """A worker with one request halted at each step, and five that wait for nothing."""
    await declare_on(broker_url)
    command = (sys.executable, "-m", "tests.faults.halting_worker", "--folder", str(folder))
    scribe = await asyncio.to_thread(Scribe, broker_url)
    worker = start_worker(folder, command=command, **worker_urls)
    try:
        sendings = [*map(halted, STEPS), *(plan(None) for _ in range(5))]
        await asyncio.to_thread(scribe.send_all, sendings)
        await eventually(lambda: all((folder / step).exists() for step in STEPS), 30)
        yield worker, scribe
    finally:
        worker.close()
        print("".join(worker.output[-40:]))  # noqa: T201 -- shown when the test fails
        await asyncio.to_thread(scribe.close)


async def recover(
    scribe: Scribe, broker: RabbitMQ | ExternalRabbitMQ, vhost: str, ledger_url: str
) -> audit.Ledger:
    """Everything is answered and settled, and the books agree."""
    await asyncio.to_thread(scribe.wait_for_answers, 40)
    await asyncio.to_thread(soon, lambda: settled(broker, vhost), 30)
    await asyncio.to_thread(scribe.read)
    ledger = await audit.read(ledger_url)
    audit.check(scribe.book, ledger)
    return ledger


@every_fault
async def test_a_request_at_any_step_survives_what_the_network_to_the_broker_does(
    rabbitmq: RabbitMQ | ExternalRabbitMQ,
    vhost: str,
    sqlite_url: str,
    tmp_path: Path,
    fault: Callable[[TcpProxy], Awaitable[None]],
) -> None:
    """The worker lives: nothing crashed and nothing ran twice (attempt 1, no crash, in the audit)."""
    url = rabbitmq.vhost_url(vhost)
    async with TcpProxy(url) as proxy:
        urls = {"amqp_url": f"{proxy.url}?heartbeat=1", "ledger_url": sqlite_url}
        async with halted_worker(url, urls, tmp_path) as (worker, scribe):
            breaking = asyncio.ensure_future(fault(proxy))
            await asyncio.sleep(0)  # it has begun
            (tmp_path / "go").touch()
            await breaking
            ledger = await recover(scribe, rabbitmq, vhost, sqlite_url)
            assert worker.returncode is None
    assert {row.crashes for row in ledger.requests.values()} == {0}


@every_fault
async def test_a_request_at_any_step_survives_what_the_network_to_the_ledger_does(
    rabbitmq: RabbitMQ | ExternalRabbitMQ,
    vhost: str,
    postgresql_url: str,
    tmp_path: Path,
    fault: Callable[[TcpProxy], Awaitable[None]],
) -> None:
    """Consuming pauses and resumes, no attempt is spent, and nobody takes the request over."""
    url = rabbitmq.vhost_url(vhost)
    async with TcpProxy(postgresql_url) as proxy:
        urls = {"amqp_url": url, "ledger_url": proxy.url}
        async with halted_worker(url, urls, tmp_path) as (worker, scribe):
            breaking = asyncio.ensure_future(fault(proxy))
            await asyncio.sleep(0)  # it has begun
            (tmp_path / "go").touch()
            await breaking
            ledger = await recover(scribe, rabbitmq, vhost, postgresql_url)
            assert worker.returncode is None
    assert {row.crashes for row in ledger.requests.values()} == {0}
