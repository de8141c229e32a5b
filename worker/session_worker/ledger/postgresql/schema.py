"""The schema of a PostgreSQL ledger: its recorded version, and upgrading it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

import asyncpg

from session_worker.ledger.migrations import (
    IDENTITY,
    check_current,
    has_version,
    migrations,
    missing,
    stranger,
    tables,
)
from session_worker.ledger.postgresql.connection import connect_for_operators, hang_up
from session_worker.ledger.postgresql.errors import AWAY, diagnose, explained
from session_worker.ledger.protocol import COUNTED, LedgerError, Opened, holds
from session_worker.settings.postgresql_url import place_of

if TYPE_CHECKING:
    from session_worker.ledger.migrations import Migration

NEWEST = migrations("postgresql")[-1].version
_LOCK = 0x5E55_1035
"""Key of the advisory lock under which one process upgrades."""

GRANTS = {
    "requests": ("SELECT", "INSERT", "UPDATE"),
    "sessions": ("SELECT", "INSERT", "UPDATE"),
    "workers": ("SELECT", "INSERT", "UPDATE", "DELETE"),
}
"""What a worker does to each table; reading ``schema_version`` aside, which comes first."""
_LACKING = """
SELECT quote_ident(current_user), a.* FROM unnest($1::text[], $2::text[]) AS a (its, privilege)
WHERE NOT CASE privilege WHEN 'UPDATE' THEN has_any_column_privilege(its, privilege)
    ELSE has_table_privilege(its, privilege) END
"""
ESTIMATE = """(
SELECT greatest(reltuples, pg_stat_get_live_tuples(oid))::bigint
FROM pg_class WHERE oid = 'requests'::regclass
)"""
_COUNTS = f"SELECT (SELECT count(*) FROM (SELECT FROM requests LIMIT {COUNTED}) AS counted), {ESTIMATE}"  # noqa: S608
_FOUND = """
SELECT relname, quote_ident(nspname) AS place, ARRAY(
    SELECT attname::text FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped
        AND relkind IN ('r', 'p') AND (attname <> 'version' OR atttypid = 'integer'::regtype)) AS columns
FROM unnest($1::text[]) AS its JOIN pg_class c ON c.oid = to_regclass(its)
    JOIN pg_namespace n ON n.oid = relnamespace
"""
"""What the names of our tables lead to on the search path, be it a table or not."""


class Schema(NamedTuple):
    """The version of the schema (0: there is none) and where its tables are."""

    version: int
    place: str | None


async def schema_of(connection: asyncpg.Connection, url: str) -> Schema:
    """Raises LedgerError if another program's tables have the names of ours."""
    rows = await connection.fetch(_FOUND, list(tables(NEWEST)))
    if not rows:
        return Schema(0, None)
    places = {name: place for name, place, _ in rows}
    home = places.get("schema_version", rows[0]["place"])
    found = {name: frozenset(columns) for name, place, columns in rows if place == home}
    recorded = "SELECT max(version) FROM schema_version"
    version: int = (await connection.fetchval(recorded) or 0) if has_version(found) else 0
    strange = stranger(found, version)
    if strange is None:
        return Schema(version, home)
    if not version and strange not in places:
        strange = rows[0]["relname"]
    what = (
        f"{strange} in schema {places[strange]} is not the ledger's"
        if strange in places
        else f"schema_version in schema {home} is not the ledger's, which has a table {strange} beside it"
    )
    raise LedgerError(f"the ledger's PostgreSQL at {place_of(url)}: {what}", way_out(url))


def way_out(url: str) -> str:
    """Say what to do when another program's tables are in the ledger's way."""
    option = f"{'&' if urlsplit(url).query else '?'}options=-csearch_path%3Dsession_worker"
    return (
        "give the ledger a schema of its own (`CREATE SCHEMA session_worker`, and "
        f"{option} at the end of the ledger's URL), or name another database"
    )


async def check_schema(connection: asyncpg.Connection, url: str) -> int:
    """The version of the schema. Raises LedgerError unless it is there and that of this program."""
    with explained(url):
        version = (await schema_of(connection, url)).version
    check_current("postgresql", version)
    return version


async def check_grants(connection: asyncpg.Connection, url: str) -> None:
    """Raises LedgerError unless the user may do all that a worker does: better now than at some request."""
    needed = [(table, privilege) for table, all_ in GRANTS.items() for privilege in all_]
    with explained(url):
        lacking = await connection.fetch(_LACKING, *zip(*needed, strict=True))
    if lacking:
        grants = "; ".join(f"GRANT {privilege} ON {table} TO {user}" for user, table, privilege in lacking)
        raise LedgerError(
            "the ledger's user lacks privileges", f"{grants} (docs/security.md has all of them)"
        )


async def opened(connection: asyncpg.Connection, url: str) -> Opened:
    """Raises LedgerError."""
    with explained(url):
        ((counted, estimated),) = await connection.fetch(_COUNTS)
        made = await connection.fetchval(IDENTITY)
    return Opened(
        made.isoformat(timespec="microseconds"), f"postgresql://{place_of(url)}", holds(counted, estimated)
    )


async def upgrade_database(url: str) -> tuple[int, int]:
    """Bring the schema up to date; its version before (0: there was none) and after. Raises LedgerError."""
    connection = await connect_for_operators(url)
    try:
        return await _upgrade(connection, url)
    except (asyncpg.DuplicateTableError, asyncpg.DuplicateObjectError) as error:
        raise LedgerError(
            f"the ledger's PostgreSQL at {place_of(url)}: {error.args[0]}", way_out(url)
        ) from error
    except asyncpg.InvalidSchemaNameError as error:
        raise LedgerError(
            f"the ledger's PostgreSQL at {place_of(url)} has no schema of its search_path",
            "make it with CREATE SCHEMA",
        ) from error
    except AWAY as error:
        raise LedgerError(diagnose(error, url)) from error
    finally:
        await hang_up(connection)


async def _upgrade(connection: asyncpg.Connection, url: str) -> tuple[int, int]:
    # A session that *waits* for a lock would hold up CREATE INDEX CONCURRENTLY in the session that has it.
    while not await connection.fetchval("SELECT pg_try_advisory_lock($1)", _LOCK):  # noqa: ASYNC110
        await asyncio.sleep(0.2)
    before, place = await schema_of(connection, url)
    if place is not None:  # which need not be the first one on the search path, where new tables would go
        await connection.execute(f"SET search_path TO {place}")
    for migration in missing("postgresql", before):
        if "CONCURRENTLY" in migration.sql:
            for statement in migration.statements:
                await connection.execute(statement)
            await _record(connection, migration)
        else:
            async with connection.transaction():
                await connection.execute(migration.sql)
                await _record(connection, migration)
    return before, NEWEST


async def _record(connection: asyncpg.Connection, migration: Migration) -> None:
    await connection.execute(
        "CREATE TABLE IF NOT EXISTS schema_version"
        " (version integer PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT now())"
    )
    await connection.execute("INSERT INTO schema_version (version) VALUES ($1)", migration.version)
