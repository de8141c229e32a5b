"""What can be checked at a SQLite ledger; what is written is taken back."""

from __future__ import annotations

import os
import sqlite3
import stat
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING

from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_random

from session_client.net.diagnosis import Diagnosis
from session_worker.ledger.migrations import IDENTITY, check_current
from session_worker.ledger.registration import ALIVE
from session_worker.ledger.sqlite.database import (
    BUSY_TIMEOUT,
    ESTIMATE,
    check_there,
    connect,
    diagnose,
    is_busy,
    version_of,
)
from session_worker.ledger.sqlite.read_only import ReadOnlyFile
from session_worker.ledger.sqlite.transaction import iso
from session_worker.operators.doctor.ledger_findings import size
from session_worker.operators.doctor.result import failed, ok, warning

if TYPE_CHECKING:
    from session_worker.operators.doctor.ledger_findings import LedgerFindings
    from session_worker.operators.doctor.result import Result
    from session_worker.settings import Settings

PROBE_BYTES = 1024**2
NETWORK_FILE_SYSTEMS = {
    "9p",
    "afs",
    "ceph",
    "cifs",
    "fuse.sshfs",
    "glusterfs",
    "nfs",
    "nfs4",
    "smb3",
    "smbfs",
}
"""File systems whose locks SQLite must not rely on, or whose shared memory other machines do not see."""


_JOURNAL_BYTE, _WAL = 18, 2
"""Where the file's header names its journal. A file opened as immutable does not tell it by ``PRAGMA``."""
_ALIVE = ALIVE.format(now=":now")
_WORKERS = f"""
SELECT count(*) FILTER (WHERE {_ALIVE}), count(*) FILTER (WHERE NOT ({_ALIVE})) FROM workers
"""  # noqa: S608


def examine(path: Path, settings: Settings, findings: LedgerFindings) -> None:
    check_there(path)
    now = iso(datetime.now(UTC))
    file = ReadOnlyFile(path)
    try:
        version = file.ask(version_of)
        check_current("sqlite", version)
        (findings.identity,) = file.ask(lambda database: database.execute(IDENTITY).fetchone())
        findings.alive, findings.gone = file.ask(
            lambda database: database.execute(_WORKERS, {"now": now}).fetchone()
        )
        rows = file.ask(lambda database: database.execute(f"SELECT {ESTIMATE}").fetchone()[0])
    finally:
        file.close()
    findings.results.append(_file(path, version))
    findings.results.append(size(rows, path.stat().st_size, settings.retention))
    findings.results.append(_file_durability(path))
    findings.results.append(_privacy(path))
    findings.results.append(ok("ledger clock", "this machine's own"))


def _file(path: Path, version: int) -> Result:
    for place, what in ((path, "file"), (path.parent, "folder")):
        if not os.access(place, os.W_OK):
            return failed(
                "ledger",
                f"the ledger's {what} {place.absolute()} cannot be written by this user",
                "give the worker's user write permission for both, and run this as that user",
            )
    try:
        _try_to_write(path)
    except (sqlite3.Error, OSError) as error:
        found = Diagnosis(f"the ledger file {path}: {error}")
        what, fix = diagnose(error, path) if isinstance(error, sqlite3.Error) else found
        return failed("ledger", what, fix or "look at the disk that it is on: its room, its quota, its mount")
    return ok("ledger", f"SQLite file {path}, schema {version}, takes writes")


def _try_to_write(path: Path) -> None:
    """See whether a batch can be written, and take it back. Raises sqlite3.Error, OSError.

    SQLite keeps what it is given in memory until a commit. Written to the write-ahead log it would stay
    there, and take room from workers whose disk is nearly full: an unnamed file tries the disk instead.
    """
    with closing(connect(path, "rw")) as database:
        turn = Retrying(
            retry=retry_if_exception(is_busy),
            stop=stop_after_delay(BUSY_TIMEOUT),
            wait=wait_random(0.01, 0.1),
            reraise=True,
        )
        turn(database.execute, "BEGIN IMMEDIATE")
        database.execute("CREATE TABLE doctors_probe (written BLOB)")
        database.execute("INSERT INTO doctors_probe VALUES (zeroblob(?))", (PROBE_BYTES,))
        database.execute("ROLLBACK")
    with TemporaryFile(dir=path.resolve().parent) as file:
        file.write(bytes(PROBE_BYTES))
        file.flush()
        os.fsync(file.fileno())  # some file systems say only now that there is no room


def _privacy(path: Path) -> Result:
    real = path.resolve()
    reachable = all(folder.stat().st_mode & stat.S_IXOTH for folder in real.parents)
    readable = [
        file.name
        for file in (real, *(real.with_name(f"{real.name}-{other}") for other in ("wal", "shm")))
        if file.exists() and file.stat().st_mode & (stat.S_IROTH | stat.S_IWOTH)
    ]
    if reachable and readable:
        return warning(
            "ledger privacy",
            f"every user of this machine may open {', '.join(readable)}, with users, titles and answers",
            f"chmod o= {' '.join(str(real.with_name(name)) for name in readable)}",
        )
    return ok("ledger privacy", "only its owner, and a group where one is let in, can open the file")


def _file_durability(path: Path) -> Result:
    kind = file_system(path, Path("/proc/mounts"))
    if kind in NETWORK_FILE_SYSTEMS:
        return warning(
            "ledger durability",
            f"the ledger's file is on a network file system ({kind}), whose locks may not hold",
            "move it to a disk of this machine, or use PostgreSQL",
        )
    with path.open("rb") as file:
        header = file.read(_JOURNAL_BYTE + 1)
    if header[_JOURNAL_BYTE] != _WAL:
        return warning(
            "ledger durability",
            "another program has switched off the file's write-ahead log",
            "keep other programs from writing to it, and restart the worker, which switches it on",
        )
    return ok("ledger durability", "a commit survives a power cut, as far as the disk keeps its word")


def file_system(path: Path, mounts: Path) -> str:
    """The kind of file system that ``path`` is on, by Linux's list of mounts; empty where there is none."""
    folder = path.resolve().parent
    try:
        lines = [line.split() for line in mounts.read_text().splitlines()]
    except OSError:
        return ""
    places = {Path(line[1].replace("\\040", " ")): line[2] for line in lines if len(line) > 2}
    return next((places[place] for place in (folder, *folder.parents) if place in places), "")
