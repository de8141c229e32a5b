"""One connection of a worker falls silent, as when its node loses power, while its others live."""

from __future__ import annotations

import asyncio
import sqlite3
import sys
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from tests.faults import audit
from tests.faults.halting_worker import halting_id
from tests.faults.support import Scribe, declare_on, plan, settled, start_worker
from tests.support.tcp_proxy import TcpProxy
from tests.support.waiting import eventually, soon

if TYPE_CHECKING:
    from pathlib import Path

    from tests.faults.book import Sending
    from tests.support.external_rabbitmq import ExternalRabbitMQ
    from tests.support.servers import RabbitMQ

pytestmark = pytest.mark.faults

REQUESTS = 20


def halted() -> Sending:
    """A request that halts in its handler."""
    sending = plan(None)
    assert sending.request_id is not None
    return plan(None, halting_id("in-handler", sending.request_id))


def count(ledger_url: str, condition: str) -> int:
    """How many requests the ledger has of a kind."""
    with closing(sqlite3.connect(ledger_url.removeprefix("sqlite:///"), timeout=30)) as database:
        query = f"SELECT count(*) FROM requests WHERE {condition}"
        [[found]] = database.execute(query).fetchall()
    return int(found)


async def test_no_reply_is_given_up_while_only_the_publishing_connection_is_silent(
    rabbitmq: RabbitMQ | ExternalRabbitMQ, vhost: str, sqlite_url: str, tmp_path: Path
) -> None:
    """With the default heartbeat: the deliveries could be acknowledged all the time, and must not be."""
    url = rabbitmq.vhost_url(vhost)
    await declare_on(url)
    async with TcpProxy(url) as proxy:
        scribe = await asyncio.to_thread(Scribe, url)
        command = (sys.executable, "-m", "tests.faults.halting_worker", "--folder", str(tmp_path))
        worker = start_worker(tmp_path, command=command, amqp_url=proxy.url, ledger_url=sqlite_url)
        try:
            await asyncio.to_thread(worker.wait_up)
            await asyncio.to_thread(scribe.send_all, [halted() for _ in range(REQUESTS)])
            await eventually(lambda: count(sqlite_url, "status = 'processing'") == REQUESTS)
            assert proxy.silence("session-worker publisher") == 1
            (tmp_path / "go").touch()
            lost = await asyncio.to_thread(worker.wait_for, "link lost", 40)
            await asyncio.to_thread(scribe.wait_for_answers, 20)
            await asyncio.to_thread(soon, lambda: settled(rabbitmq, vhost), 10)
        finally:
            worker.close()
            print("".join(worker.output[-40:]))  # noqa: T201 -- shown when the test fails
            await asyncio.to_thread(scribe.close)
        assert "sent nothing" in lost["reason"]
        assert count(sqlite_url, "reply = 'undeliverable'") == 0
        ledger = await audit.read(sqlite_url)
        audit.check(scribe.book, ledger)
        assert len(ledger.sessions) == REQUESTS
