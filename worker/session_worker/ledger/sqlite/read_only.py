"""Reading a SQLite ledger without leaving a file beside it, whether a worker runs or not.

Even to read, SQLite makes a ``-wal`` and a ``-shm`` if there are none. They would belong to the reader, and a
worker of another user could not write to them.
"""

from __future__ import annotations

import fcntl
import os
import pwd
import sqlite3
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import quote

from session_worker.ledger.protocol import LedgerError
from session_worker.ledger.sqlite.database import connect, diagnose

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

_SHARED_SIZE, _SHARED_FIRST = 510, 0x40000002
"""The bytes that SQLite locks while the file is open. Meanwhile nobody deletes the ``-wal`` and ``-shm``."""
_MODE_AT, _WAL_MODE = 18, b"\2"
"""Where the file's header says how it is written."""
_WAIT = 2.0
"""Seconds to wait for a worker that is just starting or stopping."""


class ReadOnlyFile:
    """The ledger in ``path``. It answers one question at a time, also after ``close``."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._database: sqlite3.Connection | None = None
        self._guard: int | None = None
        self._files: list[object] = []
        self._lock = threading.Lock()

    def ask(self, question: Callable[[sqlite3.Connection], T]) -> T:
        """Raises LedgerError."""
        try:
            with self._lock:
                if self._database is not None and self._files != self._look():
                    self._disconnect()  # they are other files now
                return self._ask(question)
        except sqlite3.Error as error:
            raise LedgerError(diagnose(error, self._path)) from error
        except OSError as error:
            raise LedgerError(
                f"the ledger file {self._path} cannot be read ({error.strerror})",
                "give this user the permission, or run this as the worker's user",
            ) from error

    def interrupt(self) -> None:
        """Break off the question that another thread is asking."""
        if self._database is not None:
            self._database.interrupt()

    def close(self) -> None:
        with self._lock:
            self._disconnect()

    def _ask(self, question: Callable[[sqlite3.Connection], T]) -> T:
        deadline = time.monotonic() + _WAIT
        while True:
            if self._database is None and self._at_rest():
                with suppress(_DisturbedError):
                    return self._ask_at_rest(question)
            elif self._database is not None or self._connects():
                return question(self._database)  # type: ignore[arg-type]
            if time.monotonic() >= deadline:
                raise LedgerError(
                    f"the ledger file {self._path} was not closed properly, and only its owner "
                    f"({self._owner()}) or root can read it now",
                    "start the worker, or run this as that user",
                )
            time.sleep(0.05)

    def _ask_at_rest(self, question: Callable[[sqlite3.Connection], T]) -> T:
        """Ask a file that nobody has open. Raises _DisturbedError if a worker opened it meanwhile."""
        self._database = sqlite3.connect(
            f"file:{quote(str(self._path))}?mode=ro&immutable=1", uri=True, check_same_thread=False
        )
        self._database.row_factory = sqlite3.Row
        try:
            answer = question(self._database)
        except sqlite3.DatabaseError:
            if self._at_rest():
                raise
            raise _DisturbedError from None
        finally:
            self._disconnect()
        if self._at_rest():
            return answer
        raise _DisturbedError

    def _connects(self) -> bool:
        """Connect as usual, if SQLite makes no file for it that the ledger's owner could not write to."""
        self._disconnect()  # what is left of a try that failed
        if self._in_wal_mode() and os.geteuid() not in {
            0,
            self._path.stat().st_uid,
        }:  # what root makes, SQLite gives to the owner
            self._guard = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                fcntl.lockf(self._guard, fcntl.LOCK_SH | fcntl.LOCK_NB, _SHARED_SIZE, _SHARED_FIRST)
                kept = all(self._look())
            except BlockingIOError:
                kept = False
            if not kept:
                self._disconnect()
                return False
        self._database = connect(self._path, "ro")
        self._database.execute("SELECT 1 FROM sqlite_master").fetchone()  # it opens them only now
        self._files = self._look()
        return True

    def _disconnect(self) -> None:
        if self._database is not None:
            self._database.close()
            self._database = None
        if self._guard is not None:
            os.close(self._guard)  # ends all locks on the file: after SQLite's connection
            self._guard = None

    def _at_rest(self) -> bool:
        """Whether no process has it open, and all of it is in the one file. Outside of WAL mode only SQLite's
        locks tell; there it is opened as usual, which makes no files."""
        wal, shm = self._beside("-wal"), self._beside("-shm")
        return self._in_wal_mode() and not shm.exists() and not (wal.exists() and wal.stat().st_size)

    def _in_wal_mode(self) -> bool:
        with self._path.open("rb") as file:
            return file.read(_MODE_AT + 1)[_MODE_AT:] == _WAL_MODE

    def _look(self) -> list[object]:
        """The identity of each file that is there now; None for each that is missing."""
        found = []
        for file in (self._path, self._beside("-wal"), self._beside("-shm")):
            with suppress(FileNotFoundError):
                about = file.stat()
                found.append((about.st_dev, about.st_ino))
        return [*found, *[None] * (3 - len(found))]

    def _beside(self, suffix: str) -> Path:
        return Path(f"{os.path.realpath(self._path)}{suffix}")

    def _owner(self) -> str:
        uid = self._path.stat().st_uid
        try:
            return pwd.getpwuid(uid).pw_name
        except KeyError:
            return f"uid {uid}"


class _DisturbedError(Exception):
    """A worker began to write to the file while it was read as one that nobody writes to."""
