"""Copying a SQLite ledger to PostgreSQL, for when one machine is no longer enough."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from session_worker.ledger.migrations import IDENTITY, check_current
from session_worker.ledger.postgresql.connection import connect_for_operators, hang_up
from session_worker.ledger.postgresql.errors import AWAY, diagnose
from session_worker.ledger.postgresql.schema import check_schema
from session_worker.ledger.protocol import LedgerError
from session_worker.ledger.registration import ALIVE
from session_worker.ledger.sqlite.database import connect, path_of, version_of
from session_worker.ledger.sqlite.database import diagnose as diagnose_file
from session_worker.ledger.sqlite.transaction import iso

if TYPE_CHECKING:
    import asyncpg

BATCH = 500


async def copy(source: str, target: str) -> tuple[int, int]:
    """Copy requests and sessions from the SQLite ledger ``source`` to the empty PostgreSQL one ``target``.

    All of it or nothing: killed, it is simply run again. Returns how many requests and sessions there were.

    Raises:
        LedgerError: one of them cannot be used, a worker runs on ``source``, or ``target`` is not empty.
    """
    if not target.startswith("postgres"):
        raise LedgerError("the ledger to copy to is not a PostgreSQL one", "name that by --ledger-url")
    path = path_of(source)
    connection = await connect_for_operators(target)
    try:
        await check_schema(connection, target)
        with closing(connect(path, "rw")) as file:
            file.execute("BEGIN IMMEDIATE")  # a worker that starts now waits until this has ended
            check_current("sqlite", version_of(file))
            _check_unused(file)
            async with connection.transaction():
                await connection.execute("LOCK TABLE requests IN EXCLUSIVE MODE")
                if await connection.fetchval("SELECT EXISTS (SELECT FROM requests)"):
                    raise LedgerError("the ledger to copy to has requests already", "name an empty one")
                (made,) = file.execute(IDENTITY).fetchone()  # from now on it is the same ledger
                await connection.execute(
                    "UPDATE schema_version SET applied_at = $1 WHERE version = 1",
                    datetime.fromisoformat(made),
                )
                return await _table(file, "requests", connection), await _table(file, "sessions", connection)
    except sqlite3.Error as error:
        raise LedgerError(diagnose_file(error, path)) from error
    except AWAY as error:
        raise LedgerError(diagnose(error, target)) from error
    finally:
        await hang_up(connection)


def _check_unused(file: sqlite3.Connection) -> None:
    alive = f"SELECT worker_id FROM workers WHERE {ALIVE.format(now=':now')}"  # noqa: S608
    living = file.execute(alive, {"now": iso(datetime.now(UTC))})
    if row := living.fetchone():
        raise LedgerError(
            f"worker {row[0]} uses the ledger to copy from",
            "stop it (one that was killed is gone after its holder timeout)",
        )


async def _table(file: sqlite3.Connection, table: str, connection: asyncpg.Connection) -> int:
    rows = file.execute(f"SELECT * FROM {table}")  # noqa: S608 - two names of ours
    columns = ", ".join(name for name, *_ in rows.description)
    insert = (
        f"INSERT INTO {table} ({columns})"  # noqa: S608 - names of the schema
        f" SELECT {columns} FROM json_populate_recordset(NULL::{table}, $1)"
    )
    count = 0
    while batch := rows.fetchmany(BATCH):
        await connection.execute(insert, json.dumps([_document(row) for row in batch]))
        count += len(batch)
    return count


def _document(row: sqlite3.Row) -> dict[str, object]:
    """The row as PostgreSQL reads it: from text, whatever the column's type."""
    found = dict(zip(row.keys(), row, strict=True))
    if "history" in found:
        found["history"] = json.loads(found["history"])
    return {name: f"\\x{value.hex()}" if isinstance(value, bytes) else value for name, value in found.items()}
