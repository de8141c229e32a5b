"""Whatever happens to the files of a SQLite ledger under a running worker, nothing answered is forgotten."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

import pytest

from session_worker.ledger import LedgerError, open_pruner, prune
from session_worker.ledger.protocol import Claimed, StepResult
from session_worker.ledger.sqlite.database import path_of
from session_worker.ledger.sqlite.ledger import SQLiteLedger
from session_worker.ledger.sqlite.writer_thread import WriterThread
from tests.support.ledger import DEADLINE, a_claim, completed, take, worker
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable

    from session_worker.ledger.protocol import Ledger


ROOT = Path(__file__).resolve().parents[2]


def beside(path: Path, suffix: str) -> Path:
    return path.with_name(f"{path.name}{suffix}")


def after_a_crash(path: Path, copy: Path) -> set[UUID]:
    """The requests that a restart would find if everything ended now."""
    copy.mkdir()
    for suffix in ("", "-wal"):  # a -shm is made anew by who comes first
        if beside(path, suffix).exists():
            shutil.copy(beside(path, suffix), copy)
    with closing(sqlite3.connect(copy / path.name)) as database:
        return {UUID(row[0]) for row in database.execute("SELECT request_id FROM requests")}


def damage_each_batch(monkeypatch: pytest.MonkeyPatch, damage: Callable[[], None]) -> None:
    """Between its commit and its answers."""
    commit = WriterThread._commit

    def commit_and_damage(self: WriterThread) -> None:
        commit(self)
        if self._thread.ident is not None:  # the worker has started
            damage()

    monkeypatch.setattr(WriterThread, "_commit", commit_and_damage)


def delete(*paths: Path) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


def replace_by_a_copy(*paths: Path) -> None:
    for path in paths:
        if path.exists():
            shutil.copy(path, beside(path, ".copy"))
            beside(path, ".copy").rename(path)


def move_away(*paths: Path) -> None:
    for path in paths:
        if path.exists():
            path.rename(beside(path, ".away"))


@pytest.mark.parametrize("suffixes", [["-wal"], ["-shm"], ["-wal", "-shm"]], ids="".join)
@pytest.mark.parametrize("harm", [delete, replace_by_a_copy, move_away])
async def test_what_is_answered_survives_the_loss_of_the_files_beside_the_ledger(
    sqlite_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    harm: Callable[..., None],
    suffixes: list[str],
) -> None:
    """They go between the commit of each batch and its answers; a crash after any answer finds it. Who reads
    sessions all the while neither hinders that nor is left without an answer."""
    path = path_of(sqlite_url)
    batches = 0

    def damage() -> None:
        nonlocal batches
        batches += 1
        if batches % 2:  # the batch is then committed again, and must at some time get through
            harm(*(beside(path, suffix) for suffix in suffixes))

    async with worker(sqlite_url) as ledger:
        answered: set[UUID] = set()
        session = await take(ledger)
        await ledger.finish(completed(session))
        read, over = 0, False

        async def read_on() -> None:
            nonlocal read
            while not over:
                assert await ledger.get_session(session.session_id or "", session.user_id)
                read += 1

        damage_each_batch(monkeypatch, damage)
        async with asyncio.timeout(DEADLINE), asyncio.TaskGroup() as tasks:
            tasks.create_task(read_on())
            for number in range(5):
                claim = await take(ledger)
                answered.add(claim.request_id)
                assert answered <= after_a_crash(path, tmp_path / f"claim-{number}")
                assert await ledger.finish(completed(claim)) is StepResult.APPLIED
                assert answered <= after_a_crash(path, tmp_path / f"finish-{number}")
            over = True
        assert read
    async with worker(sqlite_url) as ledger:
        assert all([await ledger.knows(request_id) for request_id in answered])


async def test_deleted_files_are_noticed_while_nothing_is_to_do(
    sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crash in a quiet hour finds what was answered before."""
    path = path_of(sqlite_url)
    async with worker(sqlite_url, holder_timeout=0.5) as ledger:
        claim = await take(ledger)
        delete(beside(path, "-wal"), beside(path, "-shm"))
        await eventually(beside(path, "-wal").exists)
        assert after_a_crash(path, tmp_path / "crash") == {claim.request_id}


def overwrite(path: Path, backup: Path) -> None:
    shutil.copyfile(backup, path)  # like cp: the same inode


def put_in_place(path: Path, backup: Path) -> None:
    backup.rename(path)


def truncate(path: Path, _: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(0)


def truncate_half(path: Path, _: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)


def truncate_wal(path: Path, _: Path) -> None:
    truncate(beside(path, "-wal"), path)


def truncate_half_of_the_wal(path: Path, _: Path) -> None:
    truncate_half(beside(path, "-wal"), path)


@pytest.mark.parametrize("when", ["after a commit", "before it"])
@pytest.mark.parametrize(
    "harm",
    [overwrite, put_in_place, truncate, truncate_half, truncate_wal, truncate_half_of_the_wal],
)
async def test_nobody_is_answered_while_something_is_lost_that_cannot_be_saved(
    sqlite_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    harm: Callable[[Path, Path], None],
    when: str,
) -> None:
    """The ledger stays away and says why: once, and until a person has seen to it."""
    path = path_of(sqlite_url)
    async with worker(sqlite_url) as ledger:
        for _ in range(20):
            await take(ledger)
    backup = tmp_path / "backup.db"
    with closing(sqlite3.connect(path)) as database:
        database.execute(f"VACUUM INTO '{backup}'")
    changes: list[bool] = []
    async with worker(sqlite_url) as ledger:
        await asyncio.gather(*(ledger.claim(a_claim()) for _ in range(200)))
        with closing(sqlite3.connect(path)) as database:
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        await take(ledger)
        ledger.availability.watch(changes.append)
        if when == "before it":
            harm(path, backup)
        else:
            damage_each_batch(monkeypatch, lambda: harm(path, backup) if not changes else None)
        waiting = asyncio.create_task(ledger.claim(a_claim()))
        await eventually(lambda: not ledger.availability.up)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.shield(waiting), 0.5)
        assert changes == [False]
        assert "worker" in ledger.availability.reason
        monkeypatch.undo()
    with pytest.raises(Exception, match="the ledger was closed"):
        await waiting


async def test_files_that_come_back_end_the_outage(sqlite_url: str, tmp_path: Path) -> None:
    """The whole folder was renamed, and renamed back."""
    folder = tmp_path / "folder"
    folder.mkdir()
    url = f"sqlite:///{folder}/ledger.db"
    async with worker(url) as ledger:
        first = await take(ledger)
        folder.rename(tmp_path / "elsewhere")
        waiting = asyncio.create_task(ledger.claim(a_claim()))
        await eventually(lambda: not ledger.availability.up)
        assert "moved or deleted: put it back" in ledger.availability.reason
        (tmp_path / "elsewhere").rename(folder)
        assert isinstance(await asyncio.wait_for(waiting, DEADLINE), Claimed)
        assert await ledger.knows(first.request_id)
    assert sorted(path.name for path in folder.iterdir()) == ["ledger.db"]


async def test_a_ledger_that_is_gone_when_it_is_to_be_opened_again_is_an_outage(
    sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another worker has its -wal open, which SQLite would throw away."""
    path, away = path_of(sqlite_url), tmp_path / "away"
    async with worker(sqlite_url) as other, worker(sqlite_url) as ledger:
        assert isinstance(ledger, SQLiteLedger)
        writer = ledger._writer
        first = await take(other)

        def fail_once() -> None:
            monkeypatch.undo()
            monkeypatch.setattr(writer, "_let_go", let_go_and_lose)
            raise sqlite3.OperationalError("disk I/O error")

        def let_go_and_lose() -> None:
            monkeypatch.undo()
            writer._let_go()
            path.rename(away)

        monkeypatch.setattr(writer, "_commit", fail_once)
        waiting = asyncio.create_task(ledger.claim(a_claim()))
        await eventually(lambda: "put the file back" in ledger.availability.reason)
        away.rename(path)
        assert isinstance(await asyncio.wait_for(waiting, DEADLINE), Claimed)
        assert await ledger.knows(first.request_id)


async def test_another_process_with_new_files_is_not_written_over(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It found no -wal, made a new one and wrote to it: what both have committed cannot be put together."""
    path = path_of(sqlite_url)
    program = f"""
import sqlite3
database = sqlite3.connect({str(path)!r}, isolation_level=None)
database.execute("INSERT INTO workers VALUES ('other', '', '', '')")
print("written", flush=True)
input()
"""
    async with worker(sqlite_url, holder_timeout=60) as ledger:
        await take(ledger)
        delete(beside(path, "-wal"), beside(path, "-shm"))
        other = await asyncio.create_subprocess_exec(
            sys.executable, "-c", program, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert other.stdout is not None
        assert await other.stdout.readline() == b"written\n"
        waiting = asyncio.create_task(ledger.claim(a_claim()))
        await eventually(lambda: "another process writes to the new one" in ledger.availability.reason)
        assert not waiting.done()
        other.kill()
        await other.wait()
        delete(beside(path, "-wal"), beside(path, "-shm"))
        assert isinstance(await asyncio.wait_for(waiting, DEADLINE), Claimed)


WORKER = """
import asyncio, sys
from tests.support.ledger import take, worker
async def main():
    async with worker(sys.argv[1], holder_timeout=2) as ledger:
        while True:
            print((await take(ledger)).request_id, flush=True)
asyncio.run(main())
"""


@pytest.mark.parametrize("suffixes", [["-wal"], ["-shm"], ["-wal", "-shm"]], ids="".join)
async def test_two_workers_that_lose_their_files_lose_nothing_to_each_other(
    sqlite_url: str, suffixes: list[str]
) -> None:
    """Whoever notices first makes new ones, and the other one follows; then both are killed."""
    path, answered = path_of(sqlite_url), [set[UUID](), set[UUID]()]

    async def listen(worker: asyncio.subprocess.Process, heard: set[UUID]) -> None:
        assert worker.stdout is not None
        async for line in worker.stdout:
            if line.endswith(b"\n"):
                heard.add(UUID(line.decode().strip()))

    workers = [
        await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", WORKER, sqlite_url), cwd=ROOT, stdout=subprocess.PIPE
        )
        for _ in answered
    ]
    listening = [asyncio.create_task(listen(*pair)) for pair in zip(workers, answered, strict=True)]
    try:
        await eventually(lambda: all(answered))
        for _ in range(3):
            delete(*(beside(path, suffix) for suffix in suffixes))
            before = [len(heard) for heard in answered]
            await eventually(
                lambda before=before: all(  # type: ignore[misc]
                    len(heard) > count + 2 for heard, count in zip(answered, before, strict=True)
                )
            )
    finally:
        for each in workers:
            each.kill()
        await asyncio.gather(*listening, *(each.wait() for each in workers))
    async with worker(sqlite_url) as ledger:
        assert all([await ledger.knows(request_id) for request_id in answered[0] | answered[1]])


def vacuum(database: sqlite3.Connection) -> None:
    database.execute("VACUUM")
    database.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def checkpoint(database: sqlite3.Connection) -> None:
    database.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def shorten(database: sqlite3.Connection) -> None:
    """The -wal is then shorter, and not empty."""
    database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    database.execute("INSERT INTO workers VALUES ('other', '', '', '')")


def restart(database: sqlite3.Connection) -> None:
    database.execute("PRAGMA wal_checkpoint(RESTART)")


@pytest.mark.parametrize("act", [vacuum, checkpoint, shorten, restart])
async def test_what_other_programs_may_do_is_no_loss(
    sqlite_url: str, act: Callable[[sqlite3.Connection], None]
) -> None:
    """The files become shorter, and nothing in them is missing."""
    path = path_of(sqlite_url)

    async def some(ledger: Ledger, count: int) -> None:
        answers = await asyncio.gather(*(ledger.claim(a_claim()) for _ in range(count)))
        assert all(isinstance(answer, Claimed) for answer in answers)

    async with worker(sqlite_url) as ledger:
        changes: list[bool] = []
        ledger.availability.watch(changes.append)
        await some(ledger, 400)
        with closing(sqlite3.connect(path, isolation_level=None)) as database:
            database.execute("DELETE FROM requests WHERE rowid % 10")
            act(database)
        for _ in range(3):
            await some(ledger, 20)
        assert changes == []
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("SELECT count(*) FROM requests").fetchone() == (100,)
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)


async def test_a_ledger_that_grows_from_checkpoint_to_checkpoint_stays_up(sqlite_url: str) -> None:
    """The worker's own checkpoints and another program's."""
    async with worker(sqlite_url) as ledger, asyncio.timeout(DEADLINE):
        changes: list[bool] = []
        ledger.availability.watch(changes.append)
        for _ in range(12):
            claims = [a_claim() for _ in range(60)]
            await asyncio.gather(*map(ledger.claim, claims))
            with closing(sqlite3.connect(path_of(sqlite_url))) as database:
                database.execute("PRAGMA wal_checkpoint(PASSIVE)")
            await asyncio.gather(*(ledger.finish(completed(claim)) for claim in claims))
        assert changes == []


async def test_pruning_beside_a_worker_keeps_neither_from_new_files(sqlite_url: str) -> None:
    """A pruner holds no file open between two transactions, and writes to none that nobody finds."""
    path = path_of(sqlite_url)
    async with worker(sqlite_url) as ledger:
        for _ in range(3):
            assert await ledger.finish(completed(await take(ledger))) is StepResult.APPLIED
        pruner = open_pruner(sqlite_url)
        await pruner.open(0)
        delete(beside(path, "-wal"), beside(path, "-shm"))
        assert isinstance(await asyncio.wait_for(ledger.claim(a_claim()), DEADLINE), Claimed)
        assert sum([deleted async for deleted in prune.in_batches(pruner)]) == 3
        await pruner.close()
        assert ledger.availability.up


async def test_pruning_refuses_a_wal_that_is_not_the_workers(sqlite_url: str) -> None:
    """The -wal was deleted a moment ago, and the worker has not noticed yet."""
    path = path_of(sqlite_url)
    async with worker(sqlite_url, holder_timeout=60) as ledger:
        claims = [await take(ledger) for _ in range(3)]
        await ledger.finish(completed(claims[0]))
        pruner = open_pruner(sqlite_url)
        await pruner.open(0)
        delete(beside(path, "-wal"))
        with pytest.raises(LedgerError):
            await pruner.delete(10)
        await pruner.close()
        assert all([await asyncio.wait_for(ledger.knows(claim.request_id), DEADLINE) for claim in claims])
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("SELECT count(*) FROM requests").fetchone() == (3,)


DIES = """
import asyncio, os, signal, sys
from tests.support.ledger import completed, take, worker

async def main():
    async with worker(sys.argv[1]) as ledger:
        for _ in range(5):
            claim = await take(ledger)
            await ledger.finish(completed(claim))
            print(claim.request_id, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""


@pytest.mark.parametrize(
    ("moved", "said"),
    [
        ([""], "it is missing, and ledger.db-wal beside it"),
        (["", "-shm"], "it is missing, and ledger.db-wal beside it"),
        (["-wal"], "ledger.db-wal beside it, with what a worker committed last, is missing"),
        (["", "-wal"], "ledger.db-wal beside it, with what a worker committed last, is missing"),
        (["-shm"], None),
    ],
    ids=lambda value: "+".join(value) or "ledger" if isinstance(value, list) else "",
)
async def test_files_that_were_moved_while_no_worker_ran_are_missed(
    sqlite_url: str, tmp_path: Path, moved: list[str], said: str | None
) -> None:
    """What a killed worker answered is in its -wal. A start without that would not know of it; and what the
    started worker answered would be gone when the -wal comes back."""
    path, away = path_of(sqlite_url), tmp_path / "away"
    killed = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", DIES, sqlite_url], cwd=ROOT, capture_output=True, text=True
    )
    answered = [UUID(line) for line in killed.stdout.split()]
    assert len(answered) == 5, killed.stderr
    away.mkdir()
    for suffix in moved:
        beside(path, suffix).rename(away / f"{path.name}{suffix}")
    before = sorted(each.name for each in tmp_path.iterdir())
    if said is not None:
        with pytest.raises(LedgerError, match=said):
            async with worker(sqlite_url):
                pass
        assert sorted(each.name for each in tmp_path.iterdir()) == before
        for each in away.iterdir():
            each.rename(path.with_name(each.name))
    async with worker(sqlite_url) as ledger:
        assert all([await ledger.knows(request_id) for request_id in answered])
