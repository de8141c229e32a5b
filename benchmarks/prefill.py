"""A ledger that has seen many requests: copies of a finished entry, each with its own ids and times."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING, Final
from uuid import uuid4

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tests.support.servers import PostgreSQL

SPACING_SECONDS: Final = 0.05
"""Between the times of two entries: a million of them are half a day."""
TIMES: Final = ("received_at", "updated_at", "finished_at")
SESSION: Final = "session_id, request_id, user_id, casefile_id, title"
CREATE_SESSIONS: Final = f"""
INSERT INTO sessions ({SESSION}, created_at) SELECT {SESSION}, received_at FROM requests
WHERE request_id NOT IN (SELECT request_id FROM sessions)
"""
FILLFACTOR: Final = """
SELECT split_part(reloption, '=', 2) FROM pg_class, unnest(reloptions) AS reloption
WHERE oid = 'requests'::regclass AND reloption LIKE 'fillfactor=%'
"""
# Keys first, as statements that take them away and bring them back: one sort is quicker than ten million
# insertions at random places of an index.
KEYS: Final = """
SELECT format('ALTER TABLE %s DROP CONSTRAINT %I', conrelid::regclass, conname),
    format('ALTER TABLE %s ADD CONSTRAINT %I %s', conrelid::regclass, conname, pg_get_constraintdef(oid))
FROM pg_constraint WHERE contype IN ('p', 'u') AND conrelid IN ('requests'::regclass, 'sessions'::regclass)
UNION ALL
SELECT format('DROP INDEX %s', indexrelid::regclass), pg_get_indexdef(indexrelid)
FROM pg_index WHERE indrelid IN ('requests'::regclass, 'sessions'::regclass)
    AND NOT EXISTS (SELECT FROM pg_constraint WHERE conindid = indexrelid)
"""


def postgresql(server: PostgreSQL, url: str, rows: int) -> None:
    """Fill a PostgreSQL ledger that holds a finished entry."""
    database = url.rpartition("/")[2]
    keys = [line.split("|", 1) for line in server.execute(KEYS, database).splitlines()]
    names = server.execute(
        "SELECT column_name FROM information_schema.columns WHERE table_name = 'requests'", database
    ).split()
    time = f"now() - n * interval '{SPACING_SECONDS} s'"
    copy = _copy(
        names,
        {
            "request_id": "gen_random_uuid()",
            "session_id": f"'ts_' || to_char({time}, 'YYMMDD_') || substr(md5(random()::text || n), 1, 12)",
        }
        | dict.fromkeys(TIMES, time),
    )
    fillfactor = server.execute(FILLFACTOR, database).strip()
    for drop, _ in keys:
        server.execute(drop, database)
    # Pages as full as they are when the first versions of their entries are gone.
    server.execute(f"ALTER TABLE requests SET (fillfactor = {2 * int(fillfactor)})", database)
    # The oldest first, as a ledger grows.
    server.execute(f"{copy} FROM generate_series({rows}, 1, -1) AS series (n), {_TEMPLATE}", database)
    server.execute(CREATE_SESSIONS, database)
    for _, restore in keys:
        server.execute(f"SET maintenance_work_mem = '1GB'; {restore}", database)
    server.execute(f"ALTER TABLE requests SET (fillfactor = {fillfactor})", database)
    for statement in ("VACUUM ANALYZE", "CHECKPOINT"):
        server.execute(statement, database)


def sqlite(url: str, rows: int) -> None:
    """Fill a SQLite ledger that holds a finished entry; all of it is on the disk afterwards."""
    path = url.removeprefix("sqlite:///")
    database = sqlite3.connect(path, isolation_level=None)
    try:
        database.create_function("new_id", 1, _new_id)
        database.execute("PRAGMA synchronous = OFF")
        names = [name for _, name, *_ in database.execute("PRAGMA table_info(requests)")]
        ago = f"'now', '-' || (n * {SPACING_SECONDS}) || ' seconds'"
        time = f"strftime('%Y-%m-%dT%H:%M:%f000+00:00', {ago})"
        day = f"substr(strftime('%Y%m%d', {ago}), 3)"
        copy = _copy(
            names,
            {
                "request_id": "new_id(template.request_id)",
                "session_id": f"'ts_' || {day} || '_' || lower(hex(randomblob(6)))",
            }
            | dict.fromkeys(TIMES, time),
        )
        series = f"WITH RECURSIVE series (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM series LIMIT {rows})"
        database.execute(f"{series} {copy} FROM series, {_TEMPLATE}")
        database.execute(CREATE_SESSIONS)
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    finally:
        database.close()
    with Path(path).open("rb") as file:
        os.fsync(file)


_TEMPLATE: Final = "(SELECT * FROM requests WHERE status = 'completed' LIMIT 1) AS template"


def _copy(names: Sequence[str], changed: Mapping[str, str]) -> str:
    values = ", ".join(changed.get(name, f"template.{name}") for name in names)
    return f"INSERT INTO requests ({', '.join(names)}) SELECT {values}"


def _new_id(like: str | bytes) -> str | bytes:
    return uuid4().bytes if isinstance(like, bytes) else str(uuid4())
