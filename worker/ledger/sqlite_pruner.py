"""Forgetting old entries of a SQLite ledger."""

from __future__ import annotations

import sqlite3
import threading
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, TypeVar

from tenacity import AsyncRetrying, retry_if_exception, stop_after_delay, wait_random

from contracts.threads import in_own_thread
from worker.ledger.base import LedgerError
from worker.ledger.held import FINISHED
from worker.ledger.migrate import check_current
from worker.ledger.sqlite_file import connect, is_busy, sentence, version_of
from worker.ledger.sqlite_steps import iso

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

T = TypeVar("T")

PATIENCE = 60.0
"""Seconds to wait for a turn to write: a busy worker leaves little time between its transactions."""

_OLD = f"received_at < :limit AND finished_at < :limit AND {FINISHED}"
_COUNT = f"SELECT count(*) FROM requests WHERE {_OLD}"  # noqa: S608 -- no value is formatted in, here and below
_DELETE = f"""
DELETE FROM requests WHERE rowid IN (
    SELECT rowid FROM requests WHERE received_at >= :reached AND {_OLD} ORDER BY received_at LIMIT :count)
RETURNING received_at
"""  # noqa: S608


class SQLitePruner:
    """``Pruner`` over a connection of its own, which takes its turn to write beside the worker's."""

    finished_before: datetime

    def __init__(self, path: Path) -> None:
        self._path = path
        self._database: sqlite3.Connection | None = None
        self._turn = threading.Lock()
        self._reached = ""

    async def open(self, older_than: float, *, patience: float | None = None) -> None:  # noqa: ARG002
        if not self._path.is_file():
            raise LedgerError(
                f"there is no ledger file {self._path}: start the worker once, or name the file it uses"
            )
        self.finished_before = datetime.now(UTC) - timedelta(seconds=older_than)
        try:
            check_current("sqlite", await self._do(version_of))
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        await in_own_thread(self._disconnect)

    async def count(self) -> int:
        return int((await self._do(lambda database: database.execute(_COUNT, self._values(0)).fetchone()))[0])

    async def delete(self, limit: int) -> int:
        rows = await self._do(lambda database: database.execute(_DELETE, self._values(limit)).fetchall())
        self._reached = max((row[0] for row in rows), default=self._reached)
        return len(rows)

    def _values(self, count: int) -> dict[str, object]:
        return {"limit": iso(self.finished_before), "reached": self._reached, "count": count}

    async def _do(self, work: Callable[[sqlite3.Connection], T]) -> T:
        retrying = AsyncRetrying(
            retry=retry_if_exception(is_busy),
            stop=stop_after_delay(PATIENCE),
            wait=wait_random(0.01, 0.1),
            reraise=True,
        )
        try:
            return await retrying(in_own_thread, self._do_now, work)
        except sqlite3.Error as error:
            raise LedgerError(sentence(error, self._path)) from error

    def _do_now(self, work: Callable[[sqlite3.Connection], T]) -> T:
        with self._turn:
            if self._database is None:
                self._database = connect(self._path, "rw")
            return work(self._database)

    def _disconnect(self) -> None:
        with self._turn:
            if self._database is not None:
                self._database.close()
                self._database = None
