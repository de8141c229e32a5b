"""What takes a SQLite ledger away, and that it comes back."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing

import pytest

from session_worker.ledger import LedgerError
from session_worker.ledger.protocol import Claimed, StepResult
from session_worker.ledger.sqlite import database as sqlite_database
from session_worker.ledger.sqlite.database import path_of
from session_worker.ledger.sqlite.ledger import SQLiteLedger
from tests.support.ledger import DEADLINE, a_claim, completed, take, worker
from tests.support.waiting import eventually


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
