"""The schema of a PostgreSQL ledger: its recorded version, and upgrading it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from worker.ledger.base import LedgerError
from worker.ledger.migrate import check_current, migrations, missing
from worker.ledger.postgresql_line import AWAY, connect_for_people, hang_up, sentence

if TYPE_CHECKING:
    import asyncpg

    from worker.ledger.migrate import Migration

_LOCK = 0x5E55_1035
"""Key of the advisory lock under which one process upgrades."""

GRANTS = {
    "requests": ("SELECT", "INSERT", "UPDATE"),
    "sessions": ("INSERT",),
    "workers": ("SELECT", "INSERT", "UPDATE", "DELETE"),
}
"""What a worker does to each table; reading ``schema_version`` aside, which comes first."""
_LACKING = """
SELECT quote_ident(current_user), a.* FROM unnest($1::text[], $2::text[]) AS a (its, privilege)
WHERE NOT has_table_privilege(its, privilege)
"""


async def version_of(connection: asyncpg.Connection) -> int:
    """The recorded version of the schema; 0 when there is none."""
    if await connection.fetchval("SELECT to_regclass('schema_version')") is None:
        return 0
    return await connection.fetchval("SELECT max(version) FROM schema_version") or 0


async def check_schema(connection: asyncpg.Connection, url: str) -> None:
    """Raises LedgerError unless the schema is there and has the version of this program."""
    try:
        check_current("postgresql", await version_of(connection))
    except AWAY as error:
        raise LedgerError(sentence(error, url)) from error


async def check_grants(connection: asyncpg.Connection, url: str) -> None:
    """Raises LedgerError unless the user may do all that a worker does: better now than at some request."""
    needed = [(table, privilege) for table, all_ in GRANTS.items() for privilege in all_]
    try:
        lacking = await connection.fetch(_LACKING, *zip(*needed, strict=True))
    except AWAY as error:
        raise LedgerError(sentence(error, url)) from error
    if lacking:
        grants = "; ".join(f"GRANT {privilege} ON {table} TO {user}" for user, table, privilege in lacking)
        raise LedgerError(f"the ledger's user lacks privileges: {grants} (docs/security.md has all of them)")


async def upgrade_database(url: str) -> tuple[int, int]:
    """Bring the schema up to date; its version before (0: there was none) and after. Raises LedgerError."""
    connection = await connect_for_people(url)
    try:
        return await _upgrade(connection)
    except AWAY as error:
        raise LedgerError(sentence(error, url)) from error
    finally:
        await hang_up(connection)


async def _upgrade(connection: asyncpg.Connection) -> tuple[int, int]:
    # A session that *waits* for a lock would hold up CREATE INDEX CONCURRENTLY in the session that has it.
    while not await connection.fetchval("SELECT pg_try_advisory_lock($1)", _LOCK):  # noqa: ASYNC110
        await asyncio.sleep(0.2)
    before = await version_of(connection)
    for migration in missing("postgresql", before):
        if "CONCURRENTLY" in migration.sql:
            for statement in migration.statements:
                await connection.execute(statement)
            await _record(connection, migration)
        else:
            async with connection.transaction():
                await connection.execute(migration.sql)
                await _record(connection, migration)
    return before, migrations("postgresql")[-1].version


async def _record(connection: asyncpg.Connection, migration: Migration) -> None:
    await connection.execute(
        "CREATE TABLE IF NOT EXISTS schema_version"
        " (version integer PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT now())"
    )
    await connection.execute("INSERT INTO schema_version (version) VALUES ($1)", migration.version)
