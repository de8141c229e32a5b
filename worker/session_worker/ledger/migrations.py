"""The numbered migrations of each database, and the schema that they make: its version and its tables."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Literal, NamedTuple

from session_worker.ledger.protocol import LedgerError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from collections.abc import Set as AbstractSet

VERSION_TABLE = (
    "CREATE TABLE IF NOT EXISTS schema_version (version INTEGER PRIMARY KEY, applied_at TEXT NOT NULL)"
)
"""For SQLite. The columns of all tables have the same names in PostgreSQL."""


class Migration(NamedTuple):
    """One file, ``<database>/migrations/<version>_<name>.sql``: statements that each end a line with ``;``.

    They run in one transaction, unless the file says CONCURRENTLY (PostgreSQL forbids that there)."""

    version: int
    sql: str

    @property
    def statements(self) -> list[str]:
        return [statement for statement in self.sql.split(";\n") if statement.strip()]


@cache
def migrations(database: Literal["sqlite", "postgresql"]) -> Sequence[Migration]:
    """The migrations of ``database``, the oldest first."""
    folder = resources.files("session_worker.ledger") / database / "migrations"
    files = sorted((file for file in folder.iterdir() if file.name.endswith(".sql")), key=lambda f: f.name)
    return [Migration(int(file.name.split("_")[0]), file.read_text(encoding="utf-8")) for file in files]


@cache
def tables(version: int) -> Mapping[str, AbstractSet[str]]:
    """The tables of a schema at ``version`` and the names of their columns, the same in both databases."""
    with closing(sqlite3.connect(":memory:")) as database:
        database.execute(VERSION_TABLE)
        for migration in migrations("sqlite"):
            if migration.version <= version:
                database.executescript(migration.sql)
        return columns(database)


def columns(database: sqlite3.Connection) -> dict[str, AbstractSet[str]]:
    """The tables in a SQLite database, and the names of their columns."""
    names = database.execute(
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'"
    )
    return {
        name: {row[0] for row in database.execute("SELECT name FROM pragma_table_info(?)", (name,))}
        for (name,) in names.fetchall()
    }


def has_version(found: Mapping[str, AbstractSet[str]]) -> bool:
    """Whether there is a table in which a version of ours may be recorded."""
    return tables(0)["schema_version"] <= found.get("schema_version", frozenset())


def stranger(found: Mapping[str, AbstractSet[str]], version: object) -> str | None:
    """The first table of ours that is not there, or is another program's; None: all are ours.

    ``version``: what is recorded as the version of the schema."""
    if not isinstance(version, int) or version < 1:
        return "schema_version"
    needed = tables(version)
    return next((name for name in needed if not needed[name] <= found.get(name, frozenset())), None)


IDENTITY = "SELECT applied_at FROM schema_version WHERE version = 1"
"""When a ledger was made, to the microsecond: no two are the same. A copy takes it over."""


def missing(database: Literal["sqlite", "postgresql"], version: int) -> list[Migration]:
    """What a schema at ``version`` (0: there is none) still lacks.

    Raises:
        LedgerError: the schema is newer than this program.
    """
    known = migrations(database)
    if version > known[-1].version:
        raise LedgerError(
            f"the ledger's schema has version {version}, newer than this program's {known[-1].version}",
            "run the release that upgraded it, or a later one",
        )
    return [migration for migration in known if migration.version > version]


def check_current(database: Literal["sqlite", "postgresql"], version: int) -> None:
    """Raises LedgerError unless the schema at ``version`` is the one this program knows."""
    if missing(database, version):
        state = f"has version {version}" if version else "is not there yet"
        raise LedgerError(
            f"the ledger's schema {state}, version {migrations(database)[-1].version} is needed",
            "run `session-worker ledger upgrade`"
            + (" (or start with --migrate)" if database == "postgresql" else ""),
        )
