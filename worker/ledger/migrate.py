"""The numbered migrations of each database, and the version of the schema that they make."""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Literal, NamedTuple

from worker.ledger.base import LedgerError

if TYPE_CHECKING:
    from collections.abc import Sequence


class Migration(NamedTuple):
    """One file, ``migrations/<database>/<version>_<name>.sql``: statements that each end a line with ``;``.

    They run in one transaction, unless the file says CONCURRENTLY (PostgreSQL forbids that there)."""

    version: int
    sql: str

    @property
    def statements(self) -> list[str]:
        return [statement for statement in self.sql.split(";\n") if statement.strip()]


@cache
def migrations(database: Literal["sqlite", "postgresql"]) -> Sequence[Migration]:
    """All migrations of ``database``, the oldest first."""
    folder = resources.files("worker.ledger") / "migrations" / database
    files = sorted((file for file in folder.iterdir() if file.name.endswith(".sql")), key=lambda f: f.name)
    return [Migration(int(file.name.split("_")[0]), file.read_text(encoding="utf-8")) for file in files]


def missing(database: Literal["sqlite", "postgresql"], version: int) -> list[Migration]:
    """What a schema at ``version`` (0: there is none) still lacks.

    Raises:
        LedgerError: the schema is newer than this program.
    """
    known = migrations(database)
    if version > known[-1].version:
        raise LedgerError(
            f"the ledger's schema has version {version}, newer than this program's {known[-1].version}: "
            "run the release that upgraded it, or a later one"
        )
    return [migration for migration in known if migration.version > version]


def check_current(database: Literal["sqlite", "postgresql"], version: int) -> None:
    """Raises LedgerError unless the schema at ``version`` is the one this program knows."""
    if missing(database, version):
        state = f"has version {version}" if version else "is not there yet"
        raise LedgerError(
            f"the ledger's schema {state}, version {migrations(database)[-1].version} is needed: "
            "run `session-worker ledger upgrade`"
            + (" (or start with --migrate)" if database == "postgresql" else "")
        )
