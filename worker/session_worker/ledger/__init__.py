"""The ledger, which keeps requests and their outcomes: ``protocol.py`` says what it promises."""

from __future__ import annotations

from typing import TYPE_CHECKING

from session_client.net.threads import in_own_thread
from session_worker.ledger.protocol import LedgerError
from session_worker.ledger.registration import Registration
from session_worker.settings.default_ledger import sqlite_url
from session_worker.telemetry.events import unheard

if TYPE_CHECKING:
    from pathlib import Path

    from session_worker.ledger.protocol import Ledger
    from session_worker.ledger.prune import Pruner
    from session_worker.ledger.reader import LedgerReader
    from session_worker.telemetry.events import Emit

__all__ = ["LedgerError", "name_of", "open_ledger", "open_pruner", "open_reader", "upgrade"]


def open_ledger(
    url: str,
    *,
    worker_id: str,
    holder_timeout: float,
    migrate: bool = False,
    takeover_grace: float | None = None,
    emit: Emit = unheard,
) -> Ledger:
    """The ledger at ``url``, not yet opened. ``worker_id`` must be new for every process.

    A worker that has not renewed itself for ``holder_timeout`` seconds is taken for gone. For
    ``takeover_grace`` seconds (None: one holder timeout) after a start or an outage, nothing is taken over.
    ``migrate``: upgrade a PostgreSQL schema at ``open``. A SQLite schema is always upgraded.

    Raises:
        LedgerError: the URL is not one of a ledger.
    """
    grace = holder_timeout if takeover_grace is None else takeover_grace
    registration = Registration(worker_id, holder_timeout, grace)
    if path := _sqlite_file(url):
        from session_worker.ledger.sqlite.ledger import SQLiteLedger

        return SQLiteLedger(path, registration, emit)
    from session_worker.ledger.postgresql.ledger import PostgreSQLLedger

    return PostgreSQLLedger(url, registration, emit, migrate=migrate)


def open_reader(url: str) -> LedgerReader:
    """What answers an operator's questions about a ledger, not yet opened. Raises LedgerError."""
    if path := _sqlite_file(url):
        from session_worker.ledger.sqlite.reader import SQLiteReader

        return SQLiteReader(path)
    from session_worker.ledger.postgresql.reader import PostgreSQLReader

    return PostgreSQLReader(url)


def open_pruner(url: str) -> Pruner:
    """What deletes old entries of the ledger at ``url``, not yet opened. Raises LedgerError."""
    if path := _sqlite_file(url):
        from session_worker.ledger.sqlite.pruner import SQLitePruner

        return SQLitePruner(path)
    from session_worker.ledger.postgresql.pruner import PostgreSQLPruner

    return PostgreSQLPruner(url)


def name_of(url: str) -> str:
    """The name of the ledger at ``url`` for people: the full place, no password. Raises LedgerError."""
    if path := _sqlite_file(url):
        return sqlite_url(path.absolute())
    from session_worker.settings.postgresql_url import place_of

    return f"postgresql://{place_of(url)}"


async def upgrade(url: str) -> tuple[int, int]:
    """Bring the schema up to date; return its version before (0: none) and after. Raises LedgerError."""
    if path := _sqlite_file(url):
        from session_worker.ledger.sqlite.database import upgrade_file

        return await in_own_thread(upgrade_file, path)
    from session_worker.ledger.postgresql.schema import upgrade_database

    return await upgrade_database(url)


def _sqlite_file(url: str) -> Path | None:
    """The file if ``url`` is for SQLite; if not it is for PostgreSQL, whose driver is imported only then."""
    scheme = url.partition(":")[0]
    if scheme in {"postgresql", "postgres"}:
        return None
    if scheme == "sqlite":
        from session_worker.ledger.sqlite.database import path_of

        return path_of(url)
    raise LedgerError(
        "the ledger's URL must start with sqlite:/// or postgresql://, for example sqlite:////folder/ledger.db"
    )
