"""A ledger that has seen many requests: copies of a finished entry, each with its own ids and times."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Final
from uuid import uuid4

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from worker.sandbox import PostgreSQL

SPACING_SECONDS: Final = 0.05
"""Between the times of two entries: a million of them are half a day."""
TIMES: Final = ("received_at", "updated_at", "finished_at")
SESSION: Final = "session_id, request_id, user_id, casefile_id, title"
CREATE_SESSIONS: Final = f"""
INSERT INTO sessions ({SESSION}, created_at) SELECT {SESSION}, received_at FROM requests
WHERE request_id NOT IN (SELECT request_id FROM sessions)
"""


def postgresql(server: PostgreSQL, url: str, rows: int) -> None:
    """Fill a PostgreSQL ledger that holds a finished entry."""
    database = url.rpartition("/")[2]
    names = server.execute(
        "SELECT column_name FROM information_schema.columns WHERE table_name = 'requests'", database
    ).split()
    time = f"now() - n * interval '{SPACING_SECONDS} s'"
    copy = _copy(
        names,
        {
            "request_id": "gen_random_uuid()",
            "session_id": "'ts_251013_' || substr(md5(random()::text || n), 1, 12)",
        }
        | dict.fromkeys(TIMES, time),
    )
    server.execute(f"{copy} FROM generate_series(1, {rows}) AS series (n), {_TEMPLATE}", database)
    server.execute(CREATE_SESSIONS, database)
    for statement in ("VACUUM ANALYZE", "CHECKPOINT"):
        server.execute(statement, database)


def sqlite(url: str, rows: int) -> None:
    """Fill a SQLite ledger that holds a finished entry."""
    database = sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)
    try:
        database.create_function("new_id", 1, _new_id)
        database.execute("PRAGMA synchronous = OFF")
        names = [name for _, name, *_ in database.execute("PRAGMA table_info(requests)")]
        time = f"strftime('%Y-%m-%dT%H:%M:%f000+00:00', 'now', '-' || (n * {SPACING_SECONDS}) || ' seconds')"
        copy = _copy(
            names,
            {
                "request_id": "new_id(template.request_id)",
                "session_id": "'ts_251013_' || lower(hex(randomblob(6)))",
            }
            | dict.fromkeys(TIMES, time),
        )
        series = f"WITH RECURSIVE series (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM series LIMIT {rows})"
        database.execute(f"{series} {copy} FROM series, {_TEMPLATE}")
        database.execute(CREATE_SESSIONS)
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    finally:
        database.close()


_TEMPLATE: Final = "(SELECT * FROM requests WHERE status = 'completed' LIMIT 1) AS template"


def _copy(names: Sequence[str], changed: Mapping[str, str]) -> str:
    values = ", ".join(changed.get(name, f"template.{name}") for name in names)
    return f"INSERT INTO requests ({', '.join(names)}) SELECT {values}"


def _new_id(like: str | bytes) -> str | bytes:
    return uuid4().bytes if isinstance(like, bytes) else str(uuid4())
