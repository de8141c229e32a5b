"""What takes a PostgreSQL ledger away, and that it comes back; and what waiting for a lock must not do."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any
from uuid import UUID

import asyncpg
import pytest

from session_worker.ledger import open_ledger, upgrade
from session_worker.ledger.postgresql import connection as postgresql_connection
from session_worker.ledger.postgresql import pool as postgresql_pool
from session_worker.ledger.postgresql.ledger import PostgreSQLLedger
from session_worker.ledger.protocol import Claimed, Finished, InOtherHands, LedgerError, StepResult
from session_worker.sandbox import PostgreSQL
from tests.support.ledger import DEADLINE, a_claim, becomes, completed, released, sql, take, worker
from tests.support.tcp_proxy import TcpProxy
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def own_postgresql() -> Iterator[PostgreSQL]:
    """A server for one test, to be killed and started; it must not lose a commit."""
    with PostgreSQL() as server:
        yield server


async def test_postgresql_calls_wait_for_a_stopped_server(own_postgresql: PostgreSQL) -> None:
    """Killed under work, started again: every call is answered, and nothing is taken over at first."""
    url = own_postgresql.url
    await upgrade(url)
    ledger = open_ledger(url, worker_id="me", holder_timeout=15, takeover_grace=60)
    await ledger.open()
    try:
        async with worker(url, "other") as other:
            orphan = await take(other)
        held = await take(ledger)
        await sql(url, "UPDATE workers SET steady_since = now() - interval '1 day'")
        own_postgresql.kill()
        finish = asyncio.create_task(ledger.finish(completed(held)))
        claims = [asyncio.create_task(ledger.claim(a_claim())) for _ in range(50)]
        await eventually(lambda: not ledger.availability.up)
        assert re.search("cannot be reached|ended the connection", ledger.availability.reason)
        assert not finish.done()
        await asyncio.to_thread(own_postgresql.start)
        async with asyncio.timeout(DEADLINE):
            assert await finish is StepResult.APPLIED
            assert all(isinstance(answer, Claimed) for answer in await asyncio.gather(*claims))
        await eventually(lambda: ledger.availability.up)
        steady = "SELECT count(*) FROM workers WHERE steady_since > now() - interval '1 minute'"
        await becomes(url, steady, [(1,)])
        assert isinstance(await ledger.claim(a_claim(orphan.request_id)), InOtherHands)
    finally:
        await ledger.close()


async def test_postgresql_closes_in_time_while_its_server_is_down(own_postgresql: PostgreSQL) -> None:
    """A worker can stop although its ledger is away."""
    await upgrade(own_postgresql.url)
    async with worker(own_postgresql.url, holder_timeout=1) as ledger:
        await take(ledger)
        own_postgresql.kill()
        # The claim is to come when this is known.
        await eventually(lambda: not ledger.availability.up)
        waiting = asyncio.create_task(ledger.claim(a_claim()))
        await asyncio.sleep(0)
        async with asyncio.timeout(10):
            await ledger.close()
        with pytest.raises(LedgerError):
            await waiting
    await asyncio.to_thread(own_postgresql.start)


async def test_postgresql_resumes_after_its_backends_were_terminated(postgresql_url: str) -> None:
    """A failover cuts every connection at once; the work in flight is sent again."""
    async with worker(postgresql_url) as ledger:
        for _ in range(5):
            claims = [a_claim() for _ in range(100)]
            tasks = [asyncio.create_task(ledger.claim(claim)) for claim in claims]
            await asyncio.sleep(0)
            await sql(
                postgresql_url,
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()",
            )
            answers = await asyncio.gather(*tasks)
            assert all(isinstance(answer, Claimed) and answer.attempt == 1 for answer in answers)
            steps = await asyncio.gather(*(ledger.finish(completed(claim)) for claim in claims))
            assert set(steps) == {StepResult.APPLIED}
        assert isinstance(await ledger.claim(a_claim(claims[0].request_id)), Finished)


async def test_postgresql_connections_that_ended_unused_are_nobodys_outage(postgresql_url: str) -> None:
    """An idle timeout, or a restart long ago: who needs one makes a new one, and consuming does not pause."""
    async with worker(postgresql_url) as ledger:
        assert isinstance(ledger, PostgreSQLLedger)
        one, two = await take(ledger), await take(ledger)
        await asyncio.gather(
            ledger.finish(completed(one)), ledger.release(released(two)), ledger.claim(a_claim())
        )
        changes: list[bool] = []
        ledger.availability.watch(changes.append)
        lines = [line._connection for line in ledger._pool._all if line._connection is not None]
        assert len(lines) == 3, "all were needed at the same time"
        for connection in lines:
            await sql(postgresql_url, f"SELECT pg_terminate_backend({connection.get_server_pid()})")
        await eventually(lambda: all(connection.is_closed() for connection in lines))
        answers = await asyncio.gather(ledger.claim(a_claim()), ledger.release(released(two)))
        assert isinstance(answers[0], Claimed)
        assert changes == []


async def test_postgresql_notices_a_network_that_swallows_packets(
    postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connections stay, nothing arrives: that is an outage, over when a new connection gets through."""
    monkeypatch.setattr(postgresql_connection, "COMMAND_TIMEOUT", 0.3)
    monkeypatch.setattr(postgresql_connection, "CONNECT_TIMEOUT", 0.3)
    async with TcpProxy(postgresql_url) as proxy, worker(proxy.url) as ledger:
        claim = await take(ledger)
        proxy.mode = "stall"
        waiting = asyncio.create_task(ledger.finish(completed(claim)))
        await eventually(lambda: not ledger.availability.up)
        assert "does not answer" in ledger.availability.reason
        proxy.mode = "pass"
        assert await asyncio.wait_for(waiting, DEADLINE) is StepResult.APPLIED


async def test_postgresql_commit_whose_answer_never_arrives_is_found_out(postgresql_url: str) -> None:
    """On the wire: the server has committed the claims when the connection dies before it can say so."""
    async with TcpProxy(postgresql_url) as proxy, worker(proxy.url) as ledger:
        await take(ledger)
        proxy.mode = "stall-down"
        claims = [a_claim() for _ in range(100)]
        waiting = asyncio.gather(*map(ledger.claim, claims))
        await becomes(postgresql_url, "SELECT count(*) FROM requests", [(101,)])
        proxy.reset()
        proxy.mode = "pass"
        answers = await asyncio.wait_for(waiting, DEADLINE)
    assert [each.attempt for each in answers if isinstance(each, Claimed)] == [1] * 100
    assert await sql(postgresql_url, "SELECT DISTINCT attempt, crashes FROM requests") == [(1, 0)]


async def test_postgresql_is_missed_by_a_worker_with_nothing_to_do(postgresql_url: str) -> None:
    """It renews itself all the time: so it does not take a request for which there is no ledger."""
    async with TcpProxy(postgresql_url) as proxy, worker(proxy.url, holder_timeout=1) as ledger:
        await proxy.refuse()
        proxy.reset()
        await eventually(lambda: not ledger.availability.up)
        assert "cannot be reached" in ledger.availability.reason
        await proxy.accept()
        await eventually(lambda: ledger.availability.up)


async def test_postgresql_takes_nothing_from_a_worker_that_came_while_it_waited(postgresql_url: str) -> None:
    """A claim that waits for a lock still sees the register as it was before: whoever registered and took a
    request meanwhile is no gone holder."""
    first, second = UUID(int=1), UUID(int=2)
    async with worker(postgresql_url, "waiting") as waiting:
        for request_id in (first, second):
            await waiting.release(released(await take(waiting, request_id)))
        blocker = await asyncpg.connect(postgresql_url)
        try:
            async with blocker.transaction():
                await blocker.execute("SELECT FROM requests WHERE request_id = $1 FOR UPDATE", first)
                claims = asyncio.gather(waiting.claim(a_claim(first)), waiting.claim(a_claim(second)))
                blocked = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
                await becomes(postgresql_url, f"{blocked} AND datname = current_database()", [(1,)])
                async with worker(postgresql_url, "newcomer") as newcomer:
                    claim = await take(newcomer, second)
                    await blocker.execute("ROLLBACK; BEGIN")
                    answers = await asyncio.wait_for(claims, DEADLINE)
                    assert await newcomer.finish(completed(claim)) is StepResult.APPLIED
        finally:
            await blocker.close()
    assert isinstance(answers[0], Claimed)
    assert isinstance(answers[1], InOtherHands)


async def test_postgresql_uses_its_indexes_however_large_the_tables(postgresql_url: str) -> None:
    """Plans are made while the tables are empty; no statement of the worker may read them whole."""
    async with worker(postgresql_url) as ledger:
        for _ in range(10):
            claims = [a_claim() for _ in range(20)]
            await asyncio.gather(*map(ledger.claim, claims))
            await asyncio.gather(*(ledger.finish(completed(claim)) for claim in claims))
            await asyncio.gather(*(ledger.claim(a_claim(claim.request_id)) for claim in claims))
            await asyncio.gather(*(ledger.note_parked(claim.request_id, claim.token) for claim in claims))
    await becomes(
        postgresql_url,
        "SELECT seq_scan, n_tup_ins FROM pg_stat_user_tables WHERE relname = 'requests'",
        [(0, 200)],
    )


async def test_a_defect_after_an_outage_is_no_outage(
    postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server answers again, with what makes the library stumble: the caller hears of it, and the ledger
    counts as up."""
    troubles: list[Exception] = [ConnectionRefusedError(), IndexError("a message without content")]

    async def connect(url: str, **options: Any) -> asyncpg.Connection:
        if troubles:
            raise troubles.pop(0)
        return await asyncpg.connect(url)

    async with worker(postgresql_url) as ledger:
        await take(ledger)
        await sql(
            postgresql_url,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE query LIKE '%INTO requests%' AND pid <> pg_backend_pid()",
        )
        monkeypatch.setattr(postgresql_pool, "connect", connect)
        with pytest.raises(IndexError):
            async with asyncio.timeout(DEADLINE):
                await ledger.claim(a_claim())
        await eventually(lambda: ledger.availability.up)
        assert not troubles
