"""The file of a SQLite ledger: finding, opening and upgrading it, and its errors as sentences."""

from __future__ import annotations

import os
import sqlite3
import struct
from contextlib import closing, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal
from urllib.parse import quote, unquote

from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_random

from session_client.net.diagnosis import Diagnosis
from session_worker.ledger.migrations import VERSION_TABLE, columns, has_version, missing, stranger
from session_worker.ledger.protocol import COUNTED, LedgerError
from session_worker.settings.default_ledger import state_folder

BUSY_TIMEOUT = 3.0
"""Seconds to wait for another process's transaction; then the ledger counts as away."""
OPEN_TIMEOUT = 20.0
"""Seconds to wait at start, when another process may be upgrading the same file."""

# To count all of them would take long. The oldest are deleted first, so the row ids have no large gaps.
ESTIMATE = "coalesce((SELECT max(rowid) FROM requests) - (SELECT min(rowid) FROM requests) + 1, 0)"
COUNTS = f"SELECT (SELECT count(*) FROM (SELECT 1 FROM requests LIMIT {COUNTED})), {ESTIMATE}"  # noqa: S608 - constants

_DIAGNOSES = {
    sqlite3.SQLITE_BUSY: Diagnosis("is locked by another process", "stop that one, or let it finish"),
    sqlite3.SQLITE_LOCKED: Diagnosis("is locked by another process", "stop that one, or let it finish"),
    sqlite3.SQLITE_CANTOPEN: Diagnosis(
        "cannot be opened", "check that it is there and {user} may read and write it"
    ),
    sqlite3.SQLITE_READONLY: Diagnosis(
        "cannot be written", "give {user} write permission for the file and its folder"
    ),
    sqlite3.SQLITE_PERM: Diagnosis(
        "cannot be written", "give {user} write permission for the file and its folder"
    ),
    sqlite3.SQLITE_NOTADB: Diagnosis("is not a SQLite database", "name another file"),
    sqlite3.SQLITE_CORRUPT: Diagnosis("is damaged", "restore it from a backup"),
    sqlite3.SQLITE_FULL: Diagnosis("cannot grow: its disk is full"),
}


def path_of(url: str) -> Path:
    """The file of ``sqlite:///relative.db`` or ``sqlite:////absolute.db``."""
    path = unquote(url.removeprefix("sqlite:///"))
    if not url.startswith("sqlite:///") or path in {"", "/", ":memory:"} or {*"\0\n\r"} & {*path}:
        raise LedgerError(
            "the ledger's URL names no file", "write sqlite:///file.db or sqlite:////folder/file.db"
        )
    if "?" in url or "#" in url:
        raise LedgerError(
            "a SQLite ledger's URL takes no parameters",
            "leave out what begins with ? or #, or write %3F or %23 where it is part of the file's name",
        )
    return Path(path)


def diagnose(error: sqlite3.Error, path: Path) -> Diagnosis:
    """What ``error`` means for the ledger in ``path``."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    what, fix = _DIAGNOSES.get(code, (f"cannot be used: {error}", ""))
    return Diagnosis(f"the ledger file {path} {what}", fix.format(user=f"the user with uid {os.geteuid()}"))


def check_there(path: Path) -> None:
    """Raises LedgerError unless there is a file."""
    try:
        there = path.is_file()
    except OSError as error:
        raise LedgerError(
            f"the ledger file {path} cannot be found ({error.strerror})",
            "give this user the permission to enter its folder, or run this as the worker's user",
        ) from error
    if not there:
        # Say nothing of making one: in a wrong folder it would be a second ledger.
        raise LedgerError(
            f"there is no ledger file {path.absolute()}",
            "name the ledger that the workers use in SESSION_WORKER_LEDGER_URL (their log names it at "
            "`worker up`, and before that there is none)",
        )


def connect(path: Path, mode: Literal["ro", "rw", "rwc"]) -> sqlite3.Connection:
    """Open the file; a commit on this connection survives a power cut.

    Only its owner can read a new file and the two that SQLite makes beside it. A user who may not write to
    the file gets an error before SQLite makes those two: the file's owner could not write to them."""
    check_complete(path)
    if mode == "rwc":
        with suppress(OSError):  # it exists, or SQLite says why it cannot
            os.close(
                os.open(os.path.realpath(path), os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
            )
    if mode != "ro" and path.exists() and not os.access(path, os.W_OK, effective_ids=True):
        error = sqlite3.OperationalError("attempt to write a readonly database")
        error.sqlite_errorcode = sqlite3.SQLITE_READONLY
        raise error
    database = sqlite3.connect(
        f"file:{quote(str(path))}?mode={mode}",
        uri=True,
        timeout=BUSY_TIMEOUT,
        isolation_level=None,
        check_same_thread=False,
    )
    database.row_factory = sqlite3.Row
    try:
        database.execute("PRAGMA synchronous = FULL")
        database.execute("PRAGMA wal_autocheckpoint = 4000")  # pages: a page that many write is copied once
        database.execute("PRAGMA cache_size = -16384")  # KiB: the upper levels of the indexes stay in memory
    except BaseException:
        database.close()
        raise
    return database


def open_upgraded(path: Path) -> tuple[sqlite3.Connection, int]:
    """Open the file, which is made if it is missing, and upgrade it; return also the version it had.

    Several processes may do this to one new file at once: one upgrades, the others wait.

    Raises:
        LedgerError: it cannot be used; a sentence for people.
    """
    _see_to_folder(path.parent)
    if path.exists() and not path.is_file():
        raise LedgerError(f"the ledger {path} is no regular file", "name another one")
    retrying = Retrying(
        retry=retry_if_exception(is_busy),
        stop=stop_after_delay(OPEN_TIMEOUT),
        wait=wait_random(0.01, 0.1),
        reraise=True,
    )
    try:
        return retrying(_open_upgraded, path)
    except sqlite3.Error as error:
        raise LedgerError(diagnose(error, path)) from error


def _see_to_folder(folder: Path) -> None:
    if folder == state_folder():
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise LedgerError(
                f"the ledger's folder {folder} cannot be made ({error.strerror})",
                "make it, or name another place (SESSION_WORKER_LEDGER_URL)",
            ) from error
    if not folder.is_dir():
        raise LedgerError(
            f"the ledger's folder {folder.absolute()} does not exist", "make it, or name another"
        )


def check_complete(path: Path) -> None:
    """Check that no file is missing that a crash has left.

    Without the ``-wal`` SQLite would go on from an older state, and put the ``-wal`` over the new one when it
    comes back. Without the file itself it would delete the ``-wal``.

    Raises:
        sqlite3.Error: one is missing, or empty.
    """
    real = os.path.realpath(path)
    wal, shm, size = Path(f"{real}-wal"), Path(f"{real}-shm"), _size(path)
    if _size(wal) and not size:
        raise sqlite3.OperationalError(
            f"it is {'missing' if size is None else 'empty'}, and {wal.name} beside it has what a worker "
            "committed last; put the file back, or delete that one to start with a new ledger"
        )
    if not _size(wal) and _tells_of_commits(shm):
        raise sqlite3.OperationalError(
            f"{wal.name} beside it, with what a worker committed last, is missing; put it back, or delete "
            f"{shm.name} to go on without"
        )


def _tells_of_commits(shm: Path) -> bool:
    """Whether the ``-shm`` says that the ``-wal`` has commits that were not copied to the main file yet.

    It begins with the same 48 bytes twice; how many frames of the ``-wal`` were copied comes behind them.
    """
    try:
        with shm.open("rb") as file:
            start = file.read(100)
    except OSError:
        return False
    if len(start) < 100 or start[:48] != start[48:96]:
        return False
    (frames,), (copied,) = struct.unpack_from("=I", start, 16), struct.unpack_from("=I", start, 96)
    return bool(copied < frames)


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


def version_of(database: sqlite3.Connection) -> int:
    """The recorded version of the schema; 0 when the file has no tables.

    Raises:
        LedgerError: the tables are another program's.
    """
    if not (found := columns(database)):
        return 0
    recorded = "SELECT max(version) FROM schema_version"
    version: int = (database.execute(recorded).fetchone()[0] or 0) if has_version(found) else 0
    if strange := stranger(found, version):
        path = database.execute("PRAGMA database_list").fetchone()[2]
        raise LedgerError(
            f"the file {path} is another program's database, not a ledger (no table {strange} as the ledger "
            "has it), and was left as it is",
            "name another file in the ledger's URL",
        )
    return version


def is_busy(error: BaseException) -> bool:
    """Whether ``error`` says that another process is writing to the file."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}


def _open_upgraded(path: Path) -> tuple[sqlite3.Connection, int]:
    database = connect(path, "rwc")
    try:
        version = version_of(database)  # another program's file stays as it is
        database.execute("PRAGMA journal_mode = WAL")
        if missing("sqlite", version):
            version = upgrade_schema(database)
    except BaseException:
        database.close()
        raise
    return database, version


def upgrade_schema(database: sqlite3.Connection) -> int:
    """Make the tables, or change them to the newest version; return the version before."""
    database.execute("BEGIN EXCLUSIVE")
    version = version_of(database)  # again: another process may have been faster
    database.execute(VERSION_TABLE)
    for migration in missing("sqlite", version):
        for statement in migration.statements:
            database.execute(statement)
        applied_at = datetime.now(UTC).isoformat(timespec="microseconds")
        database.execute("INSERT INTO schema_version VALUES (?, ?)", (migration.version, applied_at))
    database.execute("COMMIT")
    return version


def upgrade_file(path: Path) -> tuple[int, int]:
    """Upgrade the file, which is made if it is missing; return the schema's version before and after."""
    database, before = open_upgraded(path)
    with closing(database):
        return before, version_of(database)
