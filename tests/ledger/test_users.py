"""A SQLite ledger and several users: readers lock nobody out, and only those read who are meant to."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import stat
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import pytest

from session_worker.ledger import LedgerError, open_pruner, open_reader, upgrade
from session_worker.ledger.sqlite.database import path_of
from tests.support.ledger import DEADLINE, entry, take, worker

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
OWNER, READER, GROUP = 20_001, 20_002, 20_003
AS = """
import asyncio, os, sys
from session_worker.ledger.sqlite import ledger, pruner, reader  # while it may
from tests.support.ledger import take, worker
from session_worker.ledger import open_pruner, open_reader
from session_worker.ledger.migrations import migrations
migrations("sqlite")
url = sys.argv[1]
os.setgroups([])
os.setgid(int(sys.argv[3]))
os.setuid(int(sys.argv[2]))
os.umask(0o002)
"""
WORK = """
async def main():
    async with worker(url, holder_timeout=60, takeover_grace=60) as ledger:
        await take(ledger)
        print("claimed", flush=True)
        if input() == "die":
            os._exit(0)
asyncio.run(main())
"""
READ = """
async def main():
    reader = open_reader(url)
    await reader.open()
    print(len(await reader.find()))
    await reader.close()
asyncio.run(main())
"""
PRUNE = """
async def main():
    pruner = open_pruner(url)
    await pruner.open(0)
asyncio.run(main())
"""

only_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root changes users")


@contextmanager
def running(program: str, url: str, user: int) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", AS + program, url, str(user), str(GROUP)],
        cwd=ROOT,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        yield process


def run(program: str, url: str, user: int, said: str = "") -> tuple[str, str]:
    with running(program, url, user) as process:
        out, error = process.communicate(said, timeout=60)
    return out.strip(), (error.strip().splitlines() or [""])[-1]


@pytest.fixture
def shared() -> Iterator[str]:
    """The URL of a ledger in a folder in which a group may write."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        os.chown(folder, OWNER, GROUP)
        folder.chmod(0o2775)
        yield f"sqlite:///{folder}/ledger.db"


def files(url: str) -> dict[str, int]:
    """What is in the ledger's folder, and whose it is."""
    return {path.name: path.stat().st_uid for path in path_of(url).parent.iterdir()}


@only_root
@pytest.mark.parametrize("mode", [0o640, 0o660], ids=oct)
@pytest.mark.parametrize("end", ["stop", "die", "run on"])
def test_who_reads_a_ledger_leaves_nothing_that_locks_its_owner_out(shared: str, mode: int, end: str) -> None:
    """Whether its worker was stopped or killed, or runs; then the owner's worker works as before."""
    run(WORK, shared, OWNER, "stop")
    path_of(shared).chmod(mode)
    with running(WORK, shared, OWNER) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "claimed\n"
        if end != "run on":
            process.stdin.write(f"{end}\n")
            process.stdin.close()
            process.wait(60)
        before = files(shared)
        for _ in range(2):
            assert run(READ, shared, READER) == ("2", "")
        if not mode & stat.S_IWGRP:
            assert "cannot be written" in run(PRUNE, shared, READER)[1]
            assert "cannot be written" in run(WORK, shared, READER)[1]
        assert files(shared) == before
        if end == "run on":
            process.stdin.write("stop\n")
            process.stdin.close()
            assert process.wait(60) == 0
    assert run(WORK, shared, OWNER, "stop") == ("claimed", "")
    assert files(shared) == {"ledger.db": OWNER}


@only_root
def test_what_only_the_owner_can_read_without_harm_is_left_to_the_owner(shared: str) -> None:
    """A -wal without its -shm: to read it takes a new -shm. What root makes belongs to the owner."""
    run(WORK, shared, OWNER, "die")
    path_of(shared).chmod(0o664)
    for suffix in ("-wal", "-shm"):
        path_of(shared).with_name(f"ledger.db{suffix}").chmod(0o664)
    path_of(shared).with_name("ledger.db-shm").unlink()
    refusal = run(READ, shared, READER)[1]
    assert "only its owner (uid 20001) or root can read it now" in refusal
    assert files(shared) == {"ledger.db": OWNER, "ledger.db-wal": OWNER}
    assert run(READ, shared, 0) == ("1", "")
    assert set(files(shared).values()) == {OWNER}
    assert run(READ, shared, READER) == ("1", "")


@only_root
def test_a_new_ledger_is_nobody_elses(shared: str) -> None:
    """Who may not read it is told so; neither while its worker runs nor afterwards."""
    with running(WORK, shared, OWNER) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "claimed\n"
        assert "cannot be" in run(READ, shared, READER)[1]
        process.communicate("stop", timeout=60)
    assert "cannot be" in run(READ, shared, READER)[1]
    path_of(shared).parent.chmod(0o700)
    assert "cannot be found (Permission denied)" in run(READ, shared, READER)[1]


async def test_reading_a_ledger_at_rest_leaves_nothing_beside_it(sqlite_url: str) -> None:
    async with worker(sqlite_url) as ledger:
        claim = await take(ledger)
    reader = open_reader(sqlite_url)
    await reader.open()
    assert (await reader.find())[0].request_id == claim.request_id
    assert [path.name for path in path_of(sqlite_url).parent.iterdir()] == ["ledger.db"]
    async with worker(sqlite_url) as ledger:  # that comes while somebody looks
        second = await take(ledger)
        assert {found.request_id for found in await reader.find()} == {claim.request_id, second.request_id}
        for suffix in ("-wal", "-shm"):
            path_of(sqlite_url).with_name(f"ledger.db{suffix}").unlink()
        third = asyncio.create_task(take(ledger))
        async with asyncio.timeout(DEADLINE):  # a reader of the worker's own process has to let go first
            while len(await reader.find()) < 3:
                await asyncio.sleep(0.02)
        await third
    await reader.close()


async def test_a_worker_that_begins_to_write_meanwhile_is_not_missed(sqlite_url: str) -> None:
    """The file at rest is read without locks: what was read while a worker came is read again."""
    await upgrade(sqlite_url)
    reader = open_reader(sqlite_url)
    await reader.open()
    writing: list[sqlite3.Connection] = []

    def question(database: sqlite3.Connection) -> int:
        count: int = database.execute("SELECT count(*) FROM workers").fetchone()[0]
        if not writing:
            writing.append(
                sqlite3.connect(path_of(sqlite_url), isolation_level=None, check_same_thread=False)
            )
            writing[0].execute("INSERT INTO workers VALUES ('other', '', '', '')")
        return count

    try:
        assert await reader._ask(question) == 1  # type: ignore[attr-defined]
    finally:
        await reader.close()
        writing[0].close()


@pytest.mark.parametrize("umask", [0, 0o022, 0o077])
async def test_a_new_ledger_and_what_sqlite_puts_beside_it_is_its_owners_alone(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch, umask: int
) -> None:
    """From its first moment: before SQLite writes anything to it."""
    path = path_of(sqlite_url)
    modes: list[str] = []
    connect = sqlite3.connect

    def noting(*args: object, **kwargs: object) -> sqlite3.Connection:
        modes.append(stat.filemode(path.stat().st_mode))
        return connect(*args, **kwargs)  # type: ignore[call-overload, no-any-return]

    monkeypatch.setattr(sqlite3, "connect", noting)
    before = os.umask(umask)
    try:
        async with worker(sqlite_url) as ledger:
            await take(ledger)
            modes += [stat.filemode(found.stat().st_mode) for found in path.parent.iterdir()]
    finally:
        os.umask(before)
    assert len(modes) >= 4
    assert set(modes) == {"-rw-------"}


async def test_a_group_that_is_meant_to_read_a_ledger_still_may(sqlite_url: str) -> None:
    """A mode that was given to the file stays, and is that of what SQLite puts beside it."""
    await upgrade(sqlite_url)
    path_of(sqlite_url).chmod(0o640)
    async with worker(sqlite_url) as ledger:
        await take(ledger)
        modes = {stat.filemode(found.stat().st_mode) for found in path_of(sqlite_url).parent.iterdir()}
    assert modes == {"-rw-r-----"}


@pytest.mark.parametrize("main", ["empty", "missing"])
async def test_a_wal_without_its_ledger_is_not_thrown_away(sqlite_url: str, main: str) -> None:
    """SQLite would delete it, and the worker begin with a new ledger."""
    path = path_of(sqlite_url)
    wal = path.with_name("ledger.db-wal")
    wal.write_bytes(b"what was committed last")
    if main == "empty":
        path.touch()
    for attempt in (upgrade, lambda url: entry(url, None)):  # type: ignore[arg-type]
        with pytest.raises(LedgerError, match=r"is missing|is empty|there is no ledger file"):
            await attempt(sqlite_url)
    if main == "empty":
        pruner = open_pruner(sqlite_url)
        with pytest.raises(LedgerError, match="is empty"):
            await pruner.open(0)
    assert wal.read_bytes() == b"what was committed last"
