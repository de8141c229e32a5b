"""A ledger that version 1 made, and workers of that version that still run when it is upgraded."""

from __future__ import annotations

import json
import re
import sqlite3
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import pytest

from session_contracts import ListSessionsPayload
from session_worker.ledger import open_pruner, upgrade
from session_worker.ledger.copy import copy
from session_worker.ledger.migrations import migrations
from session_worker.ledger.postgresql.connection import connect
from session_worker.ledger.protocol import Claimed, Finished, Reopened, StepResult
from session_worker.ledger.sqlite.database import path_of
from tests.support.ledger import a_claim, completed, entry, failed, released, sql, take, worker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import asyncpg

    from session_worker.ledger.protocol import Claim, Ledger

DATA = Path(__file__).parent / "version_1"
STATEMENTS: dict[str, str] = dict(
    re.findall(r"-- name: (\w+)\n(.*?)(?=\n-- name|\Z)", (DATA / "postgresql.sql").read_text(), re.DOTALL)
)
DONE, SORRY, WAITING, BACK, RUNNING = (UUID(int=(0x0199 << 112) + number) for number in range(5))
SESSION, ADA = "ts_261101_a", "ada@example.com"
RESPONSE = json.dumps(
    {"metadata": {"colour": "red", "attempts": 1, "worker_id": "one", "processing_ms": 1.25}}
).encode()


class VersionOne:
    """A worker of version 1: the statements that it sends, over one connection."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self._connection = connection

    async def claim(self, request_id: UUID, session_id: str, token: UUID) -> bool:
        """Whether the request is its own now."""
        columns = (request_id, token, b"\x01" * 32, session_id, ADA, "create_session", None, "A title")
        values = [[value] for value in (*columns, None, None, None, None)]
        return bool(await self._do("CLAIM", *values, "one", [2], 0.0))

    async def finish(self, request_id: UUID, token: UUID, status: str = "completed") -> bool:
        error = "handler_failed" if status == "failed" else None
        values = [[value] for value in (request_id, token, status, RESPONSE, error, None, None)]
        return bool(await self._do("FINISH", *values, "one"))

    async def postpone(self, request_id: UUID, token: UUID) -> bool:
        return bool(
            await self._do("POSTPONE", [request_id], [token], ["{1}"], ["handler_failed"], ["no"], "one")
        )

    async def release(self, request_id: UUID, token: UUID) -> bool:
        return bool(await self._do("RELEASE", [request_id], [token], "one"))

    async def note_sent(self, request_id: UUID, token: UUID) -> None:
        await self._do("NOTE", [request_id], [token], ["sent"])

    async def entry(self, request_id: UUID) -> asyncpg.Record:
        (found,) = await self._do("ENTRIES", [request_id], "one", 0.0)
        return found

    async def reopen(self, request_id: UUID, token: UUID) -> bool:
        return bool(await self._do("REOPEN", [request_id], [b"\x01" * 32], [token], "one"))

    async def _do(self, statement: str, *values: Any) -> list[asyncpg.Record]:
        return list(await self._connection.fetch(STATEMENTS[statement], *values))


@asynccontextmanager
async def version_one(url: str) -> AsyncIterator[VersionOne]:
    connection = await connect(url)
    try:
        yield VersionOne(connection)
    finally:
        await connection.close()


async def install(url: str) -> None:
    """Make the tables of version 1."""
    connection = await connect(url)
    try:
        await connection.execute(migrations("postgresql")[0].sql)
        await connection.execute(
            "CREATE TABLE schema_version"
            " (version integer PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT now())"
        )
        await connection.execute("INSERT INTO schema_version VALUES (1)")
    finally:
        await connection.close()


async def live(url: str) -> None:
    """Let a worker of version 1 leave an entry in every status."""
    if url.startswith("sqlite"):
        with closing(sqlite3.connect(path_of(url))) as database:
            database.executescript((DATA / "sqlite.sql").read_text())
        return
    await install(url)
    async with version_one(url) as old:
        for number, request_id in enumerate((DONE, SORRY, WAITING, BACK, RUNNING)):
            assert await old.claim(request_id, f"ts_261101_{'abcde'[number]}", UUID(int=number))
        assert await old.finish(DONE, UUID(int=0))
        assert await old.finish(SORRY, UUID(int=1), "failed")
        assert await old.postpone(WAITING, UUID(int=2))
        assert await old.release(BACK, UUID(int=3))


@pytest.fixture(params=["sqlite", "postgresql"])
async def old_url(request: pytest.FixtureRequest) -> str:
    """A ledger that version 1 made, with an entry in every status."""
    kind = {"sqlite": "sqlite_url", "postgresql": "empty_postgresql_url"}[request.param]
    url: str = request.getfixturevalue(kind)
    await live(url)
    return url


async def test_an_old_ledger_is_upgraded_and_all_goes_on(old_url: str) -> None:
    """What has its outcome keeps it, byte for byte; what has none can be claimed and ended, or redriven."""
    assert await upgrade(old_url) == (1, migrations("postgresql")[-1].version)
    assert await upgrade(old_url) == (migrations("postgresql")[-1].version,) * 2
    async with worker(old_url) as ledger:
        done = await ledger.claim(a_claim(DONE))
        assert isinstance(done, Finished)
        assert json.loads(done.response)["metadata"]["colour"] == "red"
        assert await ledger.reopen(SORRY, b"\x01" * 32) is Reopened.REOPENED
        await sql(old_url, "UPDATE requests SET next_attempt_at = NULL")
        for number, request_id in enumerate((SORRY, WAITING, BACK, RUNNING), 1):
            claim = a_claim(request_id)
            answer = await ledger.claim(claim)
            assert isinstance(answer, Claimed)
            assert answer.session_id == f"ts_261101_{'abcde'[number]}"
            await ledger.finish(completed(claim))
            made = await ledger.get_session(answer.session_id, ADA)
            assert made is not None
            assert made.event_count == len((await entry(old_url, request_id)).history)


async def test_an_old_session_is_read_from_the_request_that_created_it(old_url: str) -> None:
    """Its metadata are those of the response, without what a worker adds."""
    await upgrade(old_url)
    made = await entry(old_url, DONE)
    assert made.finished_at is not None
    async with worker(old_url) as ledger:
        found = await ledger.get_session(SESSION, ADA)
        page = await ledger.list_sessions(ListSessionsPayload(), ADA)
    assert found is not None
    assert found.metadata == {"colour": "red"}
    assert (found.active, found.request_count, found.event_count) == (True, 1, 3)
    assert found.created_at == made.received_at.isoformat(timespec="milliseconds")
    assert found.updated_at == made.finished_at.isoformat(timespec="milliseconds")
    assert [each.model_dump() for each in page.sessions] == [
        found.model_dump(exclude={"event_count", "metadata"})
    ]


async def named(ledger: Ledger, session_id: str) -> Claim:
    claim = await take(ledger, session_id=session_id, operation="extend_session")
    await ledger.finish(failed(claim))
    return claim


async def test_an_old_session_counts_and_is_closed_like_a_new_one(old_url: str) -> None:
    await upgrade(old_url)
    async with worker(old_url) as ledger:
        await named(ledger, SESSION)
        last = await named(ledger, SESSION)
        closed = await ledger.close_session(SESSION, ADA)
        found = await ledger.get_session(SESSION, ADA)
    assert closed is not None
    assert (closed.total_requests, closed.total_events) == (3, 9)
    assert found is not None
    assert (found.active, found.request_count, found.event_count) == (False, 3, 9)
    assert found.metadata == {"colour": "red"}
    ended = (await entry(old_url, last.request_id)).updated_at
    assert found.updated_at == ended.isoformat(timespec="milliseconds")


async def test_an_old_session_whose_request_is_pruned_has_the_fewest_moves_a_creation_takes(
    old_url: str,
) -> None:
    await upgrade(old_url)
    pruner = open_pruner(old_url)
    await pruner.open(0)
    assert await pruner.delete(500) == 2
    await pruner.close()
    async with worker(old_url) as ledger:
        found = await ledger.get_session(SESSION, ADA)
        assert found is not None
        assert (found.request_count, found.event_count, found.metadata) == (1, 3, {})
        assert found.updated_at == found.created_at
        await named(ledger, SESSION)
        closed = await ledger.close_session(SESSION, ADA)
        assert closed is not None
        assert (closed.total_requests, closed.total_events) == (2, 6)


async def test_an_old_ledger_that_was_upgraded_is_copied_as_it_is(
    sqlite_url: str, postgresql_url: str
) -> None:
    """What is unknown of an old session stays so, and is found in the copy as it was found before."""
    await live(sqlite_url)
    async with worker(sqlite_url) as ledger:
        new = await take(ledger)
        await ledger.finish(completed(new, session='{"k": "ö"}'))
        await named(ledger, new.session_id or "")
        await ledger.close_session(new.session_id or "", new.user_id)
        before = [await ledger.get_session(each, ADA) for each in (SESSION, new.session_id or "")]
    assert await copy(sqlite_url, postgresql_url) == (7, 2)
    async with worker(postgresql_url) as ledger:
        after = [await ledger.get_session(each, ADA) for each in (SESSION, new.session_id or "")]
    assert after == before
    unknown = "SELECT count(*) FROM sessions WHERE metadata IS NULL AND request_count IS NULL"
    assert await sql(postgresql_url, unknown) == [(1,)]


async def test_a_worker_of_version_1_goes_on_beside_those_of_this_version(empty_postgresql_url: str) -> None:
    """It has used each of its statements before the upgrade, and uses each of them after it: on entries and
    sessions of its own, and on those of the other version."""
    url = empty_postgresql_url
    await live(url)
    async with version_one(url) as old:
        await old.entry(DONE)
        await old.note_sent(DONE, UUID(int=0))
        assert await old.reopen(SORRY, uuid4())
        await upgrade(url)
        async with worker(url, "two") as new:
            token = uuid4()
            assert await old.claim(SORRY, "ts_261101_x", token), "its own from before the upgrade"
            assert await old.postpone(SORRY, token)
            await sql(url, "UPDATE requests SET next_attempt_at = NULL")
            token = uuid4()
            assert await old.claim(SORRY, "ts_261101_x", token)
            assert await old.release(SORRY, token)
            claim = await take(new, SORRY)
            assert await new.finish(completed(claim)) is StepResult.APPLIED
            assert (await old.entry(SORRY))["status"] == "completed"

            theirs, token = uuid4(), uuid4()
            assert await old.claim(theirs, "ts_261101_y", token)
            assert await old.finish(theirs, token)
            await old.note_sent(theirs, token)
            assert (await entry(url, theirs)).reply == "sent"
            await named(new, "ts_261101_y")
            found = await new.get_session("ts_261101_y", ADA)
            assert found is not None
            assert (found.request_count, found.event_count, found.metadata) == (2, 6, {"colour": "red"})

            ours = await take(new)
            await new.release(released(ours))
            token = uuid4()
            assert await old.claim(ours.request_id, "ts_261101_z", token)
            assert await old.finish(ours.request_id, token, "failed")
            assert await old.reopen(ours.request_id, uuid4())
            token = uuid4()
            assert await old.claim(ours.request_id, "ts_261101_z", token)
            assert await old.finish(ours.request_id, token)
            made = await new.get_session(ours.session_id or "", ours.user_id)
            assert made is not None
            assert made.event_count == len((await entry(url, ours.request_id)).history)
    page = "SELECT count(*) FROM sessions"
    assert await sql(url, page) == [(4,)]


async def test_an_upgrade_that_was_broken_off_is_repeated(empty_postgresql_url: str) -> None:
    """An index that was left half made is made anew."""
    url = empty_postgresql_url
    await live(url)
    connection = await connect(url)
    try:
        for statement in migrations("postgresql")[1].statements:
            await connection.execute(statement)
        await connection.execute(
            "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'sessions_of_user'::regclass"
        )
    finally:
        await connection.close()
    assert (await upgrade(url))[0] == 1
    valid = "SELECT indisvalid FROM pg_index WHERE indexrelid = 'sessions_of_user'::regclass"
    assert await sql(url, valid) == [(True,)]


async def test_a_sqlite_ledger_is_whole_after_its_upgrade(sqlite_url: str) -> None:
    """Also for a process that had it open meanwhile."""
    await live(sqlite_url)
    with closing(sqlite3.connect(path_of(sqlite_url))) as other:
        assert other.execute("SELECT count(*) FROM requests").fetchone() == (5,)
        await upgrade(sqlite_url)
        other.execute("UPDATE requests SET session_id = NULL WHERE status = 'processing'")
        assert other.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert other.execute("PRAGMA writable_schema").fetchone() == (0,)
