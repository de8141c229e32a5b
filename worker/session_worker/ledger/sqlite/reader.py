"""What operators ask a SQLite ledger, over a read-only connection."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, TypeVar
from uuid import UUID

from session_client.net.threads import in_own_thread
from session_contracts import RequestStatus
from session_contracts.status import REDRIVE
from session_worker.ledger.migrations import IDENTITY, check_current
from session_worker.ledger.protocol import COUNTED
from session_worker.ledger.reader import OF_SESSION, Entry, Glimpse, Recent, condition, matching
from session_worker.ledger.registration import ALIVE
from session_worker.ledger.sqlite.database import check_there, version_of
from session_worker.ledger.sqlite.read_only import ReadOnlyFile
from session_worker.ledger.sqlite.transaction import iso

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable
    from pathlib import Path

T = TypeVar("T")

_ENTRY = """
SELECT request_id, status, attempt, operation, session_id, user_id, casefile_id, title, error_code, error,
    reply, received_at, updated_at, finished_at, next_attempt_at, history
FROM requests
"""
_GLIMPSE = f"""
SELECT request_id, status, received_at, finished_at, error_code,
    instr(history, '"{REDRIVE.reason}"') > 0 AS redriven
FROM requests WHERE received_at BETWEEN :since AND :now
"""  # noqa: S608 - made of constants
_WAITING = f"""
SELECT count(*) FROM (SELECT 1 FROM requests WHERE true {condition(RequestStatus.PENDING)} LIMIT {COUNTED})
"""  # noqa: S608 - made of constants
_WORKERS = f"SELECT worker_id FROM workers WHERE {ALIVE.format(now=':now')} ORDER BY worker_id"  # noqa: S608


class SQLiteReader:
    """``LedgerReader`` over a SQLite file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = ReadOnlyFile(path)

    async def open(self) -> None:
        check_there(self._path)
        try:
            version = await self._ask(version_of)
            check_current("sqlite", version)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        self._file.interrupt()  # a question that nobody waits for any more still runs in its thread
        await in_own_thread(self._file.close)

    async def get(self, request_id: UUID) -> Entry | None:
        return await self._ask(lambda database: find_entry(database, request_id))

    async def get_by_session(self, session_id: str) -> Entry | None:
        query = f"{_ENTRY} {OF_SESSION.format('?')}"
        row = await self._ask(lambda database: database.execute(query, (session_id,)).fetchone())
        return None if row is None else _entry(row)

    async def find(
        self,
        *,
        status: RequestStatus | None = None,
        since: float | None = None,
        user_id: str | None = None,
        error_code: str | None = None,
        operation: str | None = None,
        undeliverable: bool = False,
        limit: int = 50,
    ) -> list[Entry]:
        values: list[object] = ["" if since is None else iso(datetime.now(UTC) - timedelta(seconds=since))]

        def bind(value: object) -> str:
            values.append(value)
            return "?"

        wanted = matching(
            bind,
            status=status,
            user_id=user_id,
            error_code=error_code,
            operation=operation,
            undeliverable=undeliverable,
        )
        query = f"{_ENTRY} WHERE received_at >= ? {wanted} ORDER BY received_at DESC LIMIT {bind(limit)}"
        rows = await self._ask(lambda database: database.execute(query, values).fetchall())
        return [_entry(row) for row in rows]

    async def identity(self) -> str:
        return str((await self._ask(lambda database: database.execute(IDENTITY).fetchone()))[0])

    async def count_sessions(self) -> int:
        row = await self._ask(lambda database: database.execute("SELECT count(*) FROM sessions").fetchone())
        return int(row[0])

    async def recent(self, *, since: float, limit: int) -> Recent:
        def look(database: sqlite3.Connection) -> Recent:
            now = datetime.now(UTC)
            values = {"since": iso(now - timedelta(seconds=since)), "now": iso(now), "limit": limit}
            newest = database.execute(f"{_GLIMPSE} ORDER BY received_at DESC LIMIT :limit", values)
            troubled = database.execute(
                f"{_GLIMPSE} AND error_code IS NOT NULL ORDER BY received_at DESC LIMIT :limit", values
            )
            return Recent(
                newest=[_glimpse(row, now) for row in newest],
                troubled=[_glimpse(row, now) for row in troubled],
                waiting=database.execute(_WAITING).fetchone()[0],
                workers=[row[0] for row in database.execute(_WORKERS, values)],
            )

        return await self._ask(look)

    async def _ask(self, question: Callable[[sqlite3.Connection], T]) -> T:
        return await in_own_thread(self._file.ask, question)


def find_entry(database: sqlite3.Connection, request_id: UUID) -> Entry | None:
    row = database.execute(f"{_ENTRY} WHERE request_id = ?", (str(request_id),)).fetchone()
    return None if row is None else _entry(row)


def _glimpse(row: sqlite3.Row, now: datetime) -> Glimpse:
    received = datetime.fromisoformat(row["received_at"])
    finished = row["finished_at"] and datetime.fromisoformat(row["finished_at"])
    return Glimpse(
        UUID(row["request_id"]),
        RequestStatus(row["status"]),
        (now - received).total_seconds(),
        (finished - received).total_seconds() if finished else None,
        row["error_code"],
        bool(row["redriven"]),
    )


def _entry(row: sqlite3.Row) -> Entry:
    def time(column: str) -> datetime | None:
        return None if row[column] is None else datetime.fromisoformat(row[column])

    return Entry(
        request_id=UUID(row["request_id"]),
        status=RequestStatus(row["status"]),
        attempt=row["attempt"],
        operation=row["operation"],
        session_id=row["session_id"],
        user_id=row["user_id"],
        casefile_id=row["casefile_id"],
        title=row["title"],
        error_code=row["error_code"],
        error=row["error"],
        reply=row["reply"],
        received_at=datetime.fromisoformat(row["received_at"]),
        updated_at=datetime.fromisoformat(row["updated_at"]),
        finished_at=time("finished_at"),
        next_attempt_at=time("next_attempt_at"),
        history=json.loads(row["history"]),
    )
