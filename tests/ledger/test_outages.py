"""The ledger away: calls wait, find out what became of a lost commit, and go on."""

from __future__ import annotations

import asyncio
import re
import sqlite3
import threading
from contextlib import closing
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from uuid import uuid4

import asyncpg
import pytest

from session_contracts import RequestStatus
from session_worker.ledger import open_ledger, upgrade
from session_worker.ledger.postgresql import connection as postgresql_connection
from session_worker.ledger.postgresql import pool as postgresql_pool
from session_worker.ledger.postgresql.ledger import PostgreSQLLedger
from session_worker.ledger.postgresql.pool import ReconnectingConnection
from session_worker.ledger.protocol import Claimed, Finished, Ledger, LedgerError, NotNow, StepResult
from session_worker.ledger.sqlite import database as sqlite_database
from session_worker.ledger.sqlite.database import path_of
from session_worker.ledger.sqlite.ledger import SQLiteLedger
from tests.support.ledger import (
    DEADLINE,
    a_claim,
    becomes,
    completed,
    entry,
    failed,
    postponed,
    released,
    sql,
    take,
    worker,
)
from tests.support.servers import PostgreSQL
from tests.support.tcp_proxy import TcpProxy
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator


def lose_next_answer(ledger: Ledger, monkeypatch: pytest.MonkeyPatch, *, committed: bool) -> None:
    """Break the connection at the next transaction: before its commit, or between commit and answer."""
    armed = iter([True])
    if isinstance(ledger, SQLiteLedger):
        writer = ledger._writer
        commit = writer._commit

        def broken_commit() -> None:
            broken = next(armed, False)
            if committed or not broken:
                commit()
            if broken:
                raise sqlite3.OperationalError("disk I/O error")

        monkeypatch.setattr(writer, "_commit", broken_commit)
        return
    fetch = ReconnectingConnection._fetch

    async def broken_fetch(line: ReconnectingConnection, sql: str, values: tuple[Any, ...]) -> Any:
        broken = next(armed, False)
        records = await fetch(line, sql, values) if committed or not broken else None
        if broken:
            if line._connection is not None:
                line._connection.terminate()
            line._connection = None
            raise ConnectionResetError
        return records

    monkeypatch.setattr(ReconnectingConnection, "_fetch", broken_fetch)


LOST = pytest.mark.parametrize("committed", [False, True], ids=["before the commit", "after the commit"])


@LOST
async def test_a_lost_claim_is_found_out(
    ledger_url: str, monkeypatch: pytest.MonkeyPatch, *, committed: bool
) -> None:
    """The caller is answered as if nothing had been, and the attempt is counted once."""
    async with worker(ledger_url) as ledger:
        changes: list[bool] = []
        ledger.availability.watch(changes.append)
        claims = [a_claim() for _ in range(3)]
        claims.append(a_claim(time_to_live=0))
        lose_next_answer(ledger, monkeypatch, committed=committed)
        answers = await asyncio.gather(*map(ledger.claim, claims))
        assert [(each.attempt, each.expired) for each in answers if isinstance(each, Claimed)] == [
            *[(1, False)] * 3,
            (0, True),
        ]
        await eventually(lambda: changes == [False, True])
    for claim in claims[:3]:
        assert [each["status"] for each in (await entry(ledger_url, claim.request_id)).history] == [
            "pending",
            "processing",
        ]


@LOST
async def test_a_lost_outcome_is_found_out(
    ledger_url: str, monkeypatch: pytest.MonkeyPatch, *, committed: bool
) -> None:
    """One session, one outcome, APPLIED: whether the lost commit had gone through or not."""
    async with worker(ledger_url) as ledger:
        good, bad = await take(ledger), await take(ledger)
        lose_next_answer(ledger, monkeypatch, committed=committed)
        steps = await asyncio.gather(ledger.finish(completed(good)), ledger.finish(failed(bad)))
    assert set(steps) == {StepResult.APPLIED}
    assert await sql(ledger_url, "SELECT count(*) FROM sessions") == [(1,)]
    for claim, status in ((good, RequestStatus.COMPLETED), (bad, RequestStatus.FAILED)):
        found = await entry(ledger_url, claim.request_id)
        assert found.status is status
        assert len(found.history) == 3


@LOST
async def test_a_lost_outcome_counts_once_for_the_session_that_it_names(
    ledger_url: str, monkeypatch: pytest.MonkeyPatch, *, committed: bool
) -> None:
    async with worker(ledger_url) as ledger:
        session = await take(ledger)
        await ledger.finish(completed(session))
        claims = [await take(ledger, session_id=session.session_id) for _ in range(3)]
        lose_next_answer(ledger, monkeypatch, committed=committed)
        await asyncio.gather(*(ledger.finish(completed(claim, session=None)) for claim in claims))
        found = await ledger.get_session(session.session_id or "", session.user_id)
    assert found is not None
    assert (found.request_count, found.event_count) == (4, 12)


@LOST
async def test_a_session_whose_closing_was_lost_is_closed_once(
    ledger_url: str, monkeypatch: pytest.MonkeyPatch, *, committed: bool
) -> None:
    async with worker(ledger_url) as ledger:
        session = await take(ledger)
        await ledger.finish(completed(session))
        lose_next_answer(ledger, monkeypatch, committed=committed)
        closed = [await ledger.close_session(session.session_id or "", session.user_id) for _ in range(2)]
    assert closed[0] is not None
    assert closed[0] == closed[1]


@LOST
async def test_a_lost_postponement_or_release_is_found_out(
    ledger_url: str, monkeypatch: pytest.MonkeyPatch, *, committed: bool
) -> None:
    """The attempt is taken back once, the due time is set once, and the delay is the one that was chosen."""
    async with worker(ledger_url) as ledger:
        one, two = await take(ledger, time_to_live=20), await take(ledger)
        with monkeypatch.context() as patch:
            lose_next_answer(ledger, patch, committed=committed)
            assert await ledger.postpone(postponed(one, 1, 5, 30)) == 5
        lose_next_answer(ledger, monkeypatch, committed=committed)
        assert await ledger.release(released(two)) is StepResult.APPLIED
    assert [(await entry(ledger_url, each.request_id)).attempt for each in (one, two)] == [1, 0]
    assert [len((await entry(ledger_url, each.request_id)).history) for each in (one, two)] == [3, 3]


async def test_a_lost_takeover_counts_one_crash(ledger_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The token tells that the request had been taken over by this very claim."""
    async with worker(ledger_url) as heir:
        async with worker(ledger_url) as gone:
            claim = await take(gone)
        lose_next_answer(heir, monkeypatch, committed=True)
        answer = await heir.claim(a_claim(claim.request_id))
    assert isinstance(answer, Claimed)
    assert (answer.attempt, answer.crashes) == (1, 1)


async def test_a_cancelled_caller_breaks_no_batch_and_holds_nothing(ledger_url: str) -> None:
    """The others of its batch are answered, and what was taken for it is handed back uncounted."""
    async with worker(ledger_url) as ledger:
        claims = [a_claim() for _ in range(20)]
        tasks = [asyncio.create_task(ledger.claim(claim)) for claim in claims]
        for _ in range(3):
            await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(answer, asyncio.CancelledError) for answer in answers[::2])
        assert all(isinstance(answer, Claimed) for answer in answers[1::2])
        await becomes(
            ledger_url,
            "SELECT status, attempt, count(*) FROM requests GROUP BY status, attempt ORDER BY status",
            [("pending", 0, 10), ("processing", 1, 10)],
        )


async def test_what_was_claimed_while_closing_for_a_cancelled_caller_is_handed_back(ledger_url: str) -> None:
    """Shutdown cancels whoever waits; the last batch leaves nothing behind that looks like a crash."""
    async with worker(ledger_url) as ledger:
        tasks = [asyncio.create_task(ledger.claim(a_claim())) for _ in range(20)]
        for _ in range(3):
            await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
    assert await sql(ledger_url, "SELECT DISTINCT status, attempt FROM requests") == [("pending", 0)]


async def test_what_waits_when_the_ledger_is_closed_while_it_is_away_is_told(
    ledger_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """close returns soon, callers get LedgerError, and no thread is left."""

    def unreachable(*_: object) -> None:
        raise (
            ConnectionRefusedError
            if ledger_url.startswith("postgresql")
            else sqlite3.OperationalError("gone")
        )

    async with asyncio.timeout(DEADLINE):
        async with worker(ledger_url) as ledger:
            with monkeypatch.context() as patch:
                if isinstance(ledger, SQLiteLedger):
                    patch.setattr(ledger._writer, "_commit", unreachable)
                else:
                    patch.setattr(ReconnectingConnection, "_fetch", unreachable)
                tasks = [asyncio.create_task(ledger.claim(a_claim())) for _ in range(700)]
                ledger.note_sent(uuid4(), uuid4())
                await eventually(lambda: not ledger.availability.up)
                assert ledger.availability.reason
                await ledger.close()
            answers = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(answer, LedgerError) for answer in answers)
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("ledger")]
    with pytest.raises(LedgerError):
        await ledger.claim(a_claim())


# ------------------------------------------------------------------------------------- PostgreSQL


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
        assert isinstance(await ledger.claim(a_claim(orphan.request_id)), NotNow)
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


async def test_postgresql_host_that_says_nothing_leaves_time_for_the_next(
    postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It accepts the connection, and does not answer the first packet."""
    monkeypatch.setattr(postgresql_connection, "CONNECT_TIMEOUT", 2.0)
    async with TcpProxy(postgresql_url) as proxy:
        proxy.mode = "stall"
        silent, living = urlsplit(proxy.url), urlsplit(postgresql_url)
        hosts = f"{silent.netloc.rpartition('@')[2]},{living.netloc.rpartition('@')[2]}"
        user = living.netloc.rpartition("@")[0]
        async with worker(living._replace(netloc=f"{user}@{hosts}").geturl()) as ledger:
            await take(ledger)


# ----------------------------------------------------------------------------------------- SQLite


async def test_sqlite_waits_for_a_file_locked_by_another(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ledger is away while another process holds the lock, says so, and goes on when it is released."""
    monkeypatch.setattr(sqlite_database, "BUSY_TIMEOUT", 0.1)
    async with worker(sqlite_url) as ledger:
        claim = await take(ledger)
        with closing(sqlite3.connect(path_of(sqlite_url), isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            waiting = asyncio.create_task(ledger.finish(completed(claim)))
            await eventually(lambda: not ledger.availability.up)
            assert "locked" in ledger.availability.reason
            assert not waiting.done()
            other.execute("ROLLBACK")
        assert await asyncio.wait_for(waiting, DEADLINE) is StepResult.APPLIED
        await eventually(lambda: ledger.availability.up)


async def test_sqlite_starts_no_new_ledger_where_its_file_vanished(sqlite_url: str) -> None:
    """A file that is gone is an outage; it is over when the file is back, with what was in it."""
    path = path_of(sqlite_url)
    async with worker(sqlite_url) as ledger:
        claim = await take(ledger)
    elsewhere = path.with_name("elsewhere.db")
    async with worker(sqlite_url) as ledger:
        path.rename(elsewhere)
        waiting = asyncio.create_task(ledger.claim(a_claim(claim.request_id)))
        await eventually(lambda: not ledger.availability.up)
        assert not path.exists()
        elsewhere.rename(path)
        assert isinstance(await asyncio.wait_for(waiting, DEADLINE), Claimed)


async def test_sqlite_writes_nothing_into_a_file_that_nobody_finds_again(sqlite_url: str) -> None:
    """The open file was deleted and another put in its place: a person has to say that this one is meant."""
    path = path_of(sqlite_url)
    async with worker(sqlite_url) as ledger:
        backup = path.with_name("backup.db")
        with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(backup)) as target:
            source.backup(target)
        path.unlink()
        waiting = asyncio.create_task(ledger.claim(a_claim()))
        await eventually(lambda: "moved or deleted" in ledger.availability.reason)
        backup.rename(path)
        await eventually(lambda: "another file was put in its place" in ledger.availability.reason)
        assert not waiting.done()
    with pytest.raises(LedgerError, match="the ledger was closed"):
        await waiting
    for suffix in ("-wal", "-shm"):
        path.with_name(f"{path.name}{suffix}").unlink()
    async with worker(sqlite_url) as ledger:
        await take(ledger)
    with closing(sqlite3.connect(path)) as found:
        assert found.execute("SELECT count(*) FROM requests").fetchone() == (1,)


async def test_sqlite_waits_while_its_disk_is_full(sqlite_url: str) -> None:
    """Nothing is lost and nothing is half written; it goes on when there is room again."""
    async with worker(sqlite_url) as ledger:
        assert isinstance(ledger, SQLiteLedger)
        reasons: list[str] = []
        ledger.availability.watch(lambda _: reasons.append(ledger.availability.reason))
        # The limit holds for this connection only: the next one has room.
        database = ledger._writer._database
        assert database is not None
        database.execute("PRAGMA max_page_count = 1")
        answers = await asyncio.gather(*(ledger.claim(a_claim()) for _ in range(100)))
        await eventually(lambda: ledger.availability.up)
    assert all(isinstance(answer, Claimed) and answer.attempt == 1 for answer in answers)
    assert len(reasons) == 2
    assert reasons[0].endswith("cannot grow: its disk is full")
