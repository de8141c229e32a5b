"""The broker's connections come and go while the ledger is away."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from tests.faults import audit
from tests.faults.support import NAMES, Scribe, declare_on, plan, start_worker
from tests.support.tcp_proxy import TcpProxy
from tests.support.waiting import soon

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.external_rabbitmq import ExternalRabbitMQ
    from tests.support.servers import RabbitMQ

pytestmark = pytest.mark.faults


async def test_a_link_built_while_the_ledger_is_away_takes_nothing_from_the_queue(
    rabbitmq: RabbitMQ | ExternalRabbitMQ, vhost: str, postgresql_url: str, tmp_path: Path
) -> None:
    """Otherwise every lost link would bring the requests nearer to the delivery limit; all complete later."""
    url = rabbitmq.vhost_url(vhost)
    await declare_on(url)
    async with TcpProxy(postgresql_url) as ledger, TcpProxy(url) as broker:
        scribe = await asyncio.to_thread(Scribe, url)
        worker = start_worker(tmp_path, amqp_url=broker.url, ledger_url=ledger.url)
        try:
            await asyncio.to_thread(worker.wait_up)
            await ledger.refuse()
            ledger.reset()
            await asyncio.to_thread(scribe.send_all, [plan(None) for _ in range(5)])
            await asyncio.to_thread(worker.wait_for, "consuming paused")
            broker.reset()
            await asyncio.to_thread(worker.wait_for, "worker up", 30, 2)
            await asyncio.to_thread(soon, lambda: scribe.waiting(NAMES.work) == 5)
            await ledger.accept()
            await asyncio.to_thread(scribe.wait_for_answers)
        finally:
            worker.close()
            print("".join(worker.output[-40:]))  # noqa: T201 -- shown when the test fails
            await asyncio.to_thread(scribe.close)
        audit.check(scribe.book, await audit.read(postgresql_url))
