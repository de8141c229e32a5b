"""Deleting old entries of a SQLite ledger."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, TypeVar

from tenacity import AsyncRetrying, retry_if_exception, stop_after_delay, wait_random

from session_client.net.threads import in_own_thread
from session_worker.ledger.migrations import check_current
from session_worker.ledger.protocol import LedgerError
from session_worker.ledger.rules import FINISHED
from session_worker.ledger.sqlite.database import check_there, connect, diagnose, is_busy, version_of
from session_worker.ledger.sqlite.file_check import FileCheck
from session_worker.ledger.sqlite.transaction import iso

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

T = TypeVar("T")

TURN_TIMEOUT = 60.0
"""Seconds to wait for a turn to write. A busy worker leaves little time between its transactions."""

_OLD = f"received_at < :limit AND finished_at < :limit AND {FINISHED}"
_COUNT = f"SELECT count(*) FROM requests WHERE {_OLD}"  # noqa: S608 -- no value is formatted in, here and below
_DELETE = f"""
DELETE FROM requests WHERE rowid IN (
    SELECT rowid FROM requests WHERE received_at >= :reached AND {_OLD} ORDER BY received_at LIMIT :count)
RETURNING received_at
"""  # noqa: S608


class SQLitePruner:
    """``Pruner`` that takes its turn to write beside the worker.

    Each transaction has a connection of its own: one that stayed open would keep the worker beside it from
    leaving a ``-shm`` that was deleted."""

    finished_before: datetime

    def __init__(self, path: Path) -> None:
        self._path = path
        self._reached = ""

    async def open(self, older_than: float, *, statement_timeout: float | None = None) -> None:  # noqa: ARG002
        check_there(self._path)
        self.finished_before = datetime.now(UTC) - timedelta(seconds=older_than)
        check_current("sqlite", await self._do(version_of))

    async def close(self) -> None:
        """Nothing stays open between two questions."""

    async def count(self) -> int:
        return int((await self._do(lambda database: database.execute(_COUNT, self._values(0)).fetchone()))[0])

    async def delete(self, limit: int) -> int:
        def work(database: sqlite3.Connection) -> list[sqlite3.Row]:
            files = FileCheck(self._path)
            files.opened(database)
            database.execute("BEGIN IMMEDIATE")
            files.check_names()  # a worker may have found the files gone, and let go of them
            rows = database.execute(_DELETE, self._values(limit)).fetchall()
            database.execute("COMMIT")
            return rows

        rows = await self._do(work)
        self._reached = max((row[0] for row in rows), default=self._reached)
        return len(rows)

    def _values(self, count: int) -> dict[str, object]:
        return {"limit": iso(self.finished_before), "reached": self._reached, "count": count}

    async def _do(self, work: Callable[[sqlite3.Connection], T]) -> T:
        retrying = AsyncRetrying(
            retry=retry_if_exception(is_busy),
            stop=stop_after_delay(TURN_TIMEOUT),
            wait=wait_random(0.01, 0.1),
            reraise=True,
        )
        try:
            return await retrying(in_own_thread, self._do_now, work)
        except sqlite3.Error as error:
            raise LedgerError(diagnose(error, self._path)) from error

    def _do_now(self, work: Callable[[sqlite3.Connection], T]) -> T:
        with closing(connect(self._path, "rw")) as database:
            return work(database)
