"""What two commits cost, one after the other, with nobody else on the same database: the floor of latency."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from typing import TYPE_CHECKING, Final

import asyncpg
import uvloop

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.stage import Stage

SCHEMA: Final = "CREATE TABLE floor (id INTEGER PRIMARY KEY, state TEXT NOT NULL)"


def sqlite(stage: Stage, pairs: int) -> list[float]:
    """Seconds for an insert and an update, each committed as durably as our ledger does it."""
    url = stage.new_ledger("sqlite")
    database = sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)
    try:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")
        database.execute(SCHEMA)
        return [_sqlite_pair(database, number) for number in range(pairs)]
    finally:
        database.close()
        stage.drop_ledger(url)


def postgresql(stage: Stage, pairs: int) -> list[float]:
    """The same over one connection to PostgreSQL, with asyncpg on uvloop as our ledger has it."""
    url = stage.new_ledger("postgresql")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_postgresql_pairs(url, pairs))


FLOORS: Final[dict[str, Callable[[Stage, int], list[float]]]] = {
    "two-commits-sqlite": sqlite,
    "two-commits-postgresql": postgresql,
}


def _sqlite_pair(database: sqlite3.Connection, number: int) -> float:
    start = time.perf_counter()
    database.execute("INSERT INTO floor VALUES (?, 'processing')", (number,))
    database.execute("UPDATE floor SET state = 'completed' WHERE id = ?", (number,))
    return time.perf_counter() - start


async def _postgresql_pairs(url: str, pairs: int) -> list[float]:
    database = await asyncpg.connect(url)
    try:
        await database.execute(SCHEMA)
        insert = await database.prepare("INSERT INTO floor VALUES ($1, 'processing')")
        update = await database.prepare("UPDATE floor SET state = 'completed' WHERE id = $1")
        seconds = []
        for number in range(pairs):
            start = time.perf_counter()
            await insert.fetch(number)
            await update.fetch(number)
            seconds.append(time.perf_counter() - start)
        return seconds
    finally:
        await database.close()
