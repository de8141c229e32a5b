"""Reading the sessions of a SQLite ledger, beside the thread that writes to it."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import datetime
from typing import TYPE_CHECKING

from tenacity import AsyncRetrying, retry_if_exception

from session_client.net.threads import in_own_thread
from session_contracts import SessionListPayload, SessionPayload
from session_worker.ledger.availability import BACKOFF
from session_worker.ledger.group_commit import GroupCommit
from session_worker.ledger.sessions import FEWEST_MOVES, GetSession, ListSessions, SessionRow
from session_worker.ledger.sqlite.database import connect

if TYPE_CHECKING:
    import threading
    from collections.abc import Sequence
    from pathlib import Path

    from session_contracts import ListSessionsPayload

# What an earlier version left empty is read from the request that created the session.
_COMMON = """
SELECT sessions.session_id, sessions.user_id, sessions.casefile_id, sessions.title, created_at,
    coalesce(sessions.updated_at, finished_at, created_at) AS updated_at, closed_at,
    coalesce(request_count, 1) AS request_count
"""
_SESSION = f"""{_COMMON}, coalesce(event_count, json_array_length(history), {FEWEST_MOVES}) AS event_count,
    metadata, CASE WHEN metadata IS NULL THEN response END AS response
FROM sessions LEFT JOIN requests ON requests.request_id
    = CASE WHEN metadata IS NULL THEN sessions.request_id END
WHERE sessions.session_id = :session_id AND sessions.user_id = :user_id
"""
_WANTED = """
WHERE sessions.user_id = :user_id AND (:casefile_id IS NULL OR sessions.casefile_id = :casefile_id)
    AND (NOT :active_only OR closed_at IS NULL)
"""
_COUNT = f"SELECT count(*) FROM sessions {_WANTED}"  # noqa: S608 - made of constants
_PAGE = f"""{_COMMON}
FROM sessions LEFT JOIN requests ON requests.request_id
    = CASE WHEN sessions.updated_at IS NULL THEN sessions.request_id END
{_WANTED} ORDER BY created_at DESC, sessions.session_id DESC LIMIT :limit OFFSET :offset
"""

Read = GetSession | ListSessions
Found = SessionPayload | SessionListPayload | None


def find_session(database: sqlite3.Connection, session_id: str, user_id: str) -> SessionRow | None:
    """A session of the user's, if there is such a one."""
    row = database.execute(_SESSION, {"session_id": session_id, "user_id": user_id}).fetchone()
    return None if row is None else _session(row)


def list_sessions(
    database: sqlite3.Connection, asked: ListSessionsPayload, user_id: str
) -> SessionListPayload:
    """A page of the user's sessions, the newest first."""
    values = {**asked.model_dump(), "user_id": user_id}
    return SessionListPayload.model_construct(
        sessions=[_session(row).summary() for row in database.execute(_PAGE, values)],
        total_count=database.execute(_COUNT, values).fetchone()[0],
        offset=asked.offset,
        limit=asked.limit,
    )


def read(database: sqlite3.Connection, reads: Sequence[Read]) -> list[Found]:
    """What each of ``reads`` finds, all of them in one state of the ledger."""
    database.execute("BEGIN")
    found: list[Found] = []
    for each in reads:
        if isinstance(each, ListSessions):
            found.append(list_sessions(database, each.asked, each.user_id))
        else:
            session = find_session(database, each.session_id, each.user_id)
            found.append(None if session is None else session.payload())
    database.execute("COMMIT")
    return found


class SessionReads(GroupCommit[Read, Found]):
    """Reads the sessions in the file at ``path``. Those that are asked for at a time share a thread.

    Each batch opens the file anew, and under ``lock``: a connection that stayed open would keep the writer
    from leaving files that were deleted. While the file cannot be read it keeps trying.
    """

    def __init__(self, path: Path, lock: threading.Lock) -> None:
        super().__init__(self._read)
        self._path = path
        self._lock = lock
        self._retrying = AsyncRetrying(retry=retry_if_exception(_is_outage), wait=BACKOFF, reraise=True)

    async def _read(self, reads: Sequence[Read]) -> Sequence[Found]:
        return await self._retrying(in_own_thread, self._read_now, reads)

    def _read_now(self, reads: Sequence[Read]) -> list[Found]:
        with self._lock, closing(connect(self._path, "ro")) as database:
            return read(database, reads)


def _is_outage(error: BaseException) -> bool:
    return isinstance(error, sqlite3.Error) and not isinstance(
        error, sqlite3.ProgrammingError | sqlite3.InterfaceError | sqlite3.DataError
    )


def _session(row: sqlite3.Row) -> SessionRow:
    session_id, user_id, casefile_id, title, created_at, updated_at, closed_at, *counts = row
    return SessionRow(
        session_id,
        user_id,
        casefile_id,
        title,
        datetime.fromisoformat(created_at),
        datetime.fromisoformat(updated_at),
        closed_at and datetime.fromisoformat(closed_at),
        *counts,
    )
