"""Check that what was committed is in the files that a restart would open.

SQLite looks up the names of its files only when it opens them. If the ledger's file, its ``-wal`` or its
``-shm`` is deleted, replaced or truncated later, SQLite keeps writing into files that nobody finds again.
"""

from __future__ import annotations

import os
import sqlite3
import time
from contextlib import closing, suppress
from pathlib import Path

from session_worker.ledger.sqlite.database import connect

_HEADER = 100
_MAGIC, _AGE = slice(0, 16), slice(24, 32)
"""The parts of the file's header with its kind, and with its counts of changes and pages, which only grow.
(One connection counts all of its changes as one, and gives no pages back.)"""
_WAL_MAGIC = b"\x37\x7f\x06"
_WAL_HEADER, _FRAME_HEADER = 32, 24
_TRUNCATED = "its -wal was truncated while the worker used it, and what was committed last went with it"

Identity = tuple[int, int]


class LostError(sqlite3.OperationalError):
    """A restart would not open the ``-wal`` or ``-shm`` that is open now."""


class FileCheck:
    """Compares the three files of a ledger with those that a connection of this process has open."""

    def __init__(self, path: Path) -> None:
        self._path = str(path)
        self._main: Identity | None = None
        self._wal: Identity | None = None
        self._shm: Identity | None = None
        self._main_size = self._wal_size = 0
        self._about: tuple[int, ...] = ()
        self._header = b""
        self._ruined = ""

    def opened(self, database: sqlite3.Connection) -> None:
        """Remember which files ``database`` has opened. Raises sqlite3.Error unless they belong together."""
        self._check_main()
        real = os.path.realpath(self._path)  # SQLite follows links before it names the other two
        self._wal_name, self._shm_name = f"{real}-wal", f"{real}-shm"
        database.execute("PRAGMA journal_mode = WAL")  # another program may have switched it off meanwhile
        _, frames, _ = database.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        main, wal, shm = _stat(real), _stat(self._wal_name), _stat(self._shm_name)
        if main is None or wal is None or shm is None:
            raise sqlite3.OperationalError("its files were moved or deleted while it was opened")
        page = database.execute("PRAGMA page_size").fetchone()[0]
        if frames > 0 and wal.st_size < _WAL_HEADER + frames * (_FRAME_HEADER + page):
            raise sqlite3.OperationalError("its -wal is not the one that other processes write to")
        held = _held()
        if held and not {_identity(main), _identity(wal), _identity(shm)} <= held.keys():
            raise sqlite3.OperationalError("its files were replaced while it was opened")
        self._main, self._wal, self._shm = _identity(main), _identity(wal), _identity(shm)
        self._main_file, self._wal_file = held.get(self._main), held.get(self._wal)
        self._main_size, self._wal_size = max(self._main_size, main.st_size), 0
        self.check(database)

    def check(self, database: sqlite3.Connection) -> None:
        """Raises sqlite3.Error unless all are there and whole. Call it outside of a transaction."""
        main, wal = self.check_names()
        if (about := (main.st_size, main.st_mtime_ns, main.st_ctime_ns)) != self._about:
            self._check_whole(main)
            self._about = about
        if wal.st_size > self._wal_size and not self._begins():
            self._ruin(_TRUNCATED)
        if wal.st_size < self._wal_size:
            # A checkpoint of another process may have shortened it, and then nothing in it is missing.
            self._checkpoint(database, "TRUNCATE")
            main, wal = self.check_names()
        self._main_size, self._wal_size = main.st_size, wal.st_size

    def check_names(self) -> tuple[os.stat_result, os.stat_result]:
        """Check the names alone, also within a transaction; return the state of the file and its ``-wal``."""
        main = self._check_main()
        wal, shm = _stat(self._wal_name), _stat(self._shm_name)
        if wal is None or _identity(wal) != self._wal:
            raise LostError("its -wal was moved, deleted or replaced; saving what is in it")
        if _identity(shm) != self._shm:
            raise LostError("its -shm was moved, deleted or replaced; opening it anew")
        return main, wal

    def save(self, database: sqlite3.Connection) -> None:
        """Copy all that was committed to files that the next connection will open.

        Raises:
            sqlite3.Error: it is not, or not yet; ``database`` must stay open.
        """
        self._check_whole(self._check_main())
        if self._names() == (self._wal, self._shm):
            self._checkpoint(database, "PASSIVE")
            return
        # Other workers may have the same lost files open. This waits for one that is committing. One that
        # begins later checks the names itself, and lets go of the files too.
        database.execute("BEGIN IMMEDIATE")
        try:
            saved = self._clear_way()
        finally:
            database.execute("ROLLBACK")
        if not saved:
            self._checkpoint(database, "TRUNCATE")

    def _clear_way(self) -> bool:
        """Delete files that the next connection must not find. Return whether all that was committed is
        already where that connection looks."""
        wal, shm = self._names()
        if self._is_saved() or (wal == self._wal and shm is not None):
            return True  # another worker saved it; or it is in the -wal, which the maker of that -shm reads
        if wal is not None and wal != self._wal:
            if not self._is_copy():
                raise sqlite3.OperationalError(
                    "its -wal was replaced and another process writes to the new one: stop that process, "
                    "delete the new -wal and -shm, and do not stop this worker before it resumes"
                )
            Path(self._wal_name).unlink()
        if shm == self._shm:
            Path(self._shm_name).unlink()  # it belongs to the -wal that is gone
        return False

    def _names(self) -> tuple[Identity | None, Identity | None]:
        return _identity(_stat(self._wal_name)), _identity(_stat(self._shm_name))

    def _is_saved(self) -> bool:
        """Whether the open ``-wal`` is empty."""
        if self._wal_file is None:
            return False
        about = os.fstat(self._wal_file)
        return _identity(about) == self._wal and not about.st_size

    def _begins(self) -> bool:
        """Whether the open ``-wal`` has its beginning. One that was truncated and grew has a hole there."""
        return _begin_of(self._wal_file, self._wal, len(_WAL_MAGIC)) in {b"", _WAL_MAGIC}

    def _is_copy(self) -> bool:
        """Whether the new ``-wal`` has nothing that the open one lacks."""
        new = Path(self._wal_name).read_bytes()
        return new == _begin_of(self._wal_file, self._wal, len(new))

    def _checkpoint(self, database: sqlite3.Connection, mode: str) -> None:
        """Copy all that was committed to the main file. TRUNCATE waits for others that use it."""
        try:
            busy, frames, copied = database.execute(f"PRAGMA wal_checkpoint({mode})").fetchone()
        except sqlite3.OperationalError as error:
            if getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_IOERR_SHORT_READ:
                self._ruin(_TRUNCATED)
            raise
        if busy or copied < frames:
            raise sqlite3.OperationalError(
                "another process holds up saving what was committed: let it finish"
            )

    def _check_main(self) -> os.stat_result:
        if self._ruined:
            raise sqlite3.OperationalError(self._ruined)
        found = _stat(self._path)
        if found is None:
            raise sqlite3.OperationalError("it was moved or deleted: put it back")
        if self._main is not None and _identity(found) != self._main:
            raise sqlite3.OperationalError(
                "another file was put in its place: put the one before back, or, to go on with this one, "
                "stop the worker, delete the -wal and -shm beside it, and start the worker"
            )
        return found

    def _check_whole(self, main: os.stat_result) -> None:
        self._check_header()
        if main.st_size < self._main_size and not (main.st_size and self._is_sound()):
            self._ruin("it was truncated while the worker used it")

    def _check_header(self) -> None:
        """Notice a copy over the file, which keeps its inode and often its size."""
        if not self._header_follows():
            time.sleep(0.05)  # another process may be writing it
            if not self._header_follows():
                self._ruin("it was overwritten while the worker used it")

    def _header_follows(self) -> bool:
        header = _begin_of(self._main_file, self._main, _HEADER)
        before = self._header or header
        if header[_MAGIC] != before[_MAGIC] or header[_AGE] < before[_AGE]:
            return not header
        self._header = header
        return True

    def _is_sound(self) -> bool:
        """Whether it is whole: a VACUUM makes it shorter. (SQLite deletes the ``-wal`` of an empty file.)"""
        with suppress(sqlite3.DatabaseError), closing(connect(Path(self._path), "ro")) as database:
            return bool(database.execute("PRAGMA quick_check(1)").fetchone()[0] == "ok")
        return False

    def _ruin(self, what: str) -> None:
        self._ruined = f"{what}: stop the worker and restore a backup"
        raise sqlite3.OperationalError(self._ruined)


def _stat(path: str) -> os.stat_result | None:
    try:
        return os.stat(path)  # noqa: PTH116 -- a Path costs more, six times a batch
    except OSError:
        return None


def _identity(found: os.stat_result | None) -> Identity | None:
    return found and (found.st_dev, found.st_ino)


def _held() -> dict[Identity | None, int]:
    """A descriptor of each file that this process has open; empty where the system does not tell.

    To open a file once more and close it would end SQLite's locks on it."""
    held = {}
    with suppress(OSError):
        for name in os.listdir("/dev/fd"):  # noqa: PTH208 -- the names are numbers
            with suppress(OSError):
                held[_identity(os.fstat(int(name)))] = int(name)
    return held


def _begin_of(descriptor: int | None, identity: Identity | None, count: int) -> bytes:
    """The first bytes of an open file; none where they cannot be read."""
    try:
        if descriptor is not None and _identity(os.fstat(descriptor)) == identity:
            return os.pread(descriptor, count, 0)
    except OSError:
        pass
    return b""
