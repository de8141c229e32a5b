"""Reading sessions: beside whatever is written, and while the ledger is away."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import asynccontextmanager, closing
from typing import TYPE_CHECKING

import asyncpg
import pytest

from session_contracts import ListSessionsPayload
from session_worker.ledger.postgresql import ledger as postgresql_ledger
from session_worker.ledger.postgresql import statements
from session_worker.ledger.protocol import LedgerError, StepResult, TooSlowError
from session_worker.ledger.sqlite.database import path_of
from tests.support.ledger import DEADLINE, completed, take, worker
from tests.support.tcp_proxy import TcpProxy
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from session_worker.ledger.protocol import Claim, Ledger


async def created(ledger: Ledger) -> Claim:
    claim = await take(ledger)
    await ledger.finish(completed(claim))
    return claim


async def read(ledger: Ledger, claim: Claim) -> None:
    """Read a session by its id and in a list."""
    found = await ledger.get_session(claim.session_id or "", claim.user_id)
    assert found is not None
    page = await ledger.list_sessions(ListSessionsPayload(), claim.user_id)
    assert [each.session_id for each in page.sessions] == [claim.session_id]


@asynccontextmanager
async def nobody_can_write(url: str) -> AsyncIterator[None]:
    if url.startswith("sqlite"):
        with closing(sqlite3.connect(path_of(url), isolation_level=None)) as database:
            database.execute("BEGIN IMMEDIATE")
            yield
        return
    connection = await asyncpg.connect(url)
    try:
        async with connection.transaction():
            await connection.execute("LOCK TABLE requests, sessions IN EXCLUSIVE MODE")
            yield
    finally:
        await connection.close()


async def test_reads_wait_for_no_write(ledger_url: str) -> None:
    """Neither for those of others nor for those of their own worker that wait."""
    async with worker(ledger_url) as ledger:
        claim, other = await created(ledger), await take(ledger)
        async with nobody_can_write(ledger_url):
            finishing = asyncio.create_task(ledger.finish(completed(other)))
            async with asyncio.timeout(DEADLINE):
                for _ in range(3):
                    await read(ledger, claim)
            assert not finishing.done()
        assert await finishing is StepResult.APPLIED


async def test_postgresql_reads_wait_while_the_server_is_away(postgresql_url: str) -> None:
    """And are answered when it is back."""
    async with TcpProxy(postgresql_url) as proxy, worker(proxy.url, holder_timeout=1) as ledger:
        claim = await created(ledger)
        await read(ledger, claim)
        await proxy.refuse()
        proxy.reset()
        reading = asyncio.create_task(read(ledger, claim))
        await eventually(lambda: not ledger.availability.up)
        assert not reading.done()
        await proxy.accept()
        async with asyncio.timeout(DEADLINE):
            await reading
        await eventually(lambda: ledger.availability.up)


async def test_sqlite_reads_wait_while_the_file_is_away(sqlite_url: str) -> None:
    """And are answered when it is back."""
    path = path_of(sqlite_url)
    away = path.with_name("away.db")
    async with worker(sqlite_url, holder_timeout=1) as ledger:
        claim = await created(ledger)
        path.rename(away)
        reading = asyncio.create_task(read(ledger, claim))
        await eventually(lambda: not ledger.availability.up)
        assert not reading.done()
        away.rename(path)
        async with asyncio.timeout(DEADLINE):
            await reading
        await eventually(lambda: ledger.availability.up)


async def test_a_ledger_that_closes_answers_no_read_any_more(sqlite_url: str) -> None:
    """One that waits is told so, in time."""
    path = path_of(sqlite_url)
    async with worker(sqlite_url, holder_timeout=1) as ledger:
        claim = await created(ledger)
        path.rename(path.with_name("away.db"))
        reading = asyncio.create_task(read(ledger, claim))
        await eventually(lambda: not ledger.availability.up)
        async with asyncio.timeout(DEADLINE):
            await ledger.close()
            with pytest.raises(LedgerError):
                await reading
    with pytest.raises(LedgerError, match="closed"):
        await read(ledger, claim)


async def test_a_read_that_takes_too_long_is_no_outage(
    postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It fails alone: neither is it repeated for ever, nor does the worker pause."""
    monkeypatch.setattr(postgresql_ledger, "READ_TIMEOUT", 0.5)
    slow = "(SELECT *, pg_sleep(CASE session_id WHEN 'slow' THEN 5 ELSE 0 END) FROM ("
    sessions = statements.SESSIONS.replace(
        "unnest($1::text[]) AS a", f"{slow} SELECT unnest($1::text[]) AS session_id) each) AS a"
    )
    monkeypatch.setattr(postgresql_ledger, "SESSIONS", sessions)
    changes: list[bool] = []
    async with worker(postgresql_url) as ledger:
        ledger.availability.watch(changes.append)
        claim = await created(ledger)
        async with asyncio.timeout(DEADLINE):
            answers = await asyncio.gather(
                ledger.get_session("slow", claim.user_id),
                *(ledger.get_session(claim.session_id or "", claim.user_id) for _ in range(3)),
                return_exceptions=True,
            )
        assert isinstance(answers[0], TooSlowError)
        assert not any(isinstance(each, BaseException) for each in answers[1:])
    assert changes == []
