"""What operators ask a PostgreSQL ledger."""

from __future__ import annotations

import json
from datetime import datetime
from typing import TYPE_CHECKING, Any

from session_contracts import RequestStatus
from session_contracts.status import REDRIVE
from session_worker.ledger.migrations import IDENTITY
from session_worker.ledger.postgresql.operator import OperatorConnection
from session_worker.ledger.protocol import COUNTED
from session_worker.ledger.reader import OF_SESSION, Entry, Glimpse, Recent, condition, matching
from session_worker.ledger.registration import ALIVE

if TYPE_CHECKING:
    from uuid import UUID

    import asyncpg

_ENTRY = """
SELECT request_id, status, attempt, operation, session_id, user_id, casefile_id, title, error_code, error,
    reply, received_at, updated_at, finished_at, next_attempt_at, history
FROM requests
"""
_GLIMPSE = f"""
SELECT request_id, status, extract(epoch FROM now() - received_at)::float8 AS age,
    extract(epoch FROM finished_at - received_at)::float8 AS took, error_code,
    history @> '[{{"detail": "{REDRIVE.reason}"}}]' AS redriven
FROM requests WHERE received_at BETWEEN now() - $1::float8 * interval '1 second' AND now()
"""  # noqa: S608 - made of constants
_WAITING = f"""
SELECT count(*) FROM (
    SELECT FROM requests WHERE true {condition(RequestStatus.PENDING)} LIMIT {COUNTED}) AS found
"""  # noqa: S608 - made of constants
_WORKERS = f"SELECT worker_id FROM workers WHERE {ALIVE.format(now='now()')} ORDER BY worker_id"  # noqa: S608


class PostgreSQLReader(OperatorConnection):
    """``LedgerReader`` over one connection."""

    async def open(self) -> None:
        await self._connect()

    async def get(self, request_id: UUID) -> Entry | None:
        rows = await self._fetch(f"{_ENTRY} WHERE request_id = $1", request_id)
        return _entry(rows[0]) if rows else None

    async def get_by_session(self, session_id: str) -> Entry | None:
        rows = await self._fetch(f"{_ENTRY} {OF_SESSION.format('$1')}", session_id)
        return _entry(rows[0]) if rows else None

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
        values: list[Any] = [since, limit]

        def bind(value: object) -> str:
            values.append(value)
            return f"${len(values)}"

        wanted = matching(
            bind,
            status=status,
            user_id=user_id,
            error_code=error_code,
            operation=operation,
            undeliverable=undeliverable,
        )
        query = f"""{_ENTRY}
            WHERE received_at >= coalesce(now() - $1::float8 * interval '1 second', '-infinity')
                {wanted} ORDER BY received_at DESC LIMIT $2"""
        return [_entry(row) for row in await self._fetch(query, *values)]

    async def identity(self) -> str:
        made: datetime = (await self._fetch(IDENTITY))[0][0]
        return made.isoformat(timespec="microseconds")

    async def count_sessions(self) -> int:
        return int((await self._fetch("SELECT count(*) FROM sessions"))[0][0])

    async def recent(self, *, since: float, limit: int) -> Recent:
        newest = await self._fetch(f"{_GLIMPSE} ORDER BY received_at DESC LIMIT $2", since, limit)
        troubled = await self._fetch(
            f"{_GLIMPSE} AND error_code IS NOT NULL ORDER BY received_at DESC LIMIT $2", since, limit
        )
        ((waiting,),) = await self._fetch(_WAITING)
        workers = await self._fetch(_WORKERS)
        return Recent(
            newest=[_glimpse(row) for row in newest],
            troubled=[_glimpse(row) for row in troubled],
            waiting=waiting,
            workers=[row[0] for row in workers],
        )


def _glimpse(row: asyncpg.Record) -> Glimpse:
    request_id, status, *others = row
    return Glimpse(request_id, RequestStatus(status), *others)


def _entry(row: asyncpg.Record) -> Entry:
    columns: dict[str, Any] = dict(row)
    columns["status"] = RequestStatus(columns["status"])
    history = json.loads(columns["history"])
    for move in history:  # PostgreSQL leaves out the zeros at the end of a second's fraction
        move["at"] = datetime.fromisoformat(move["at"]).isoformat(timespec="microseconds")
    columns["history"] = history
    return Entry(**columns)
