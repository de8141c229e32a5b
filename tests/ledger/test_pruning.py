"""Conformance: forgetting what finished long ago, over both databases."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import asynccontextmanager, closing
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from session_contracts import RequestStatus
from session_worker.ledger import LedgerError, open_pruner, prune, upgrade
from session_worker.ledger.postgresql.pruner import PostgreSQLPruner
from session_worker.ledger.protocol import Claimed, Finished, NotNow, StepResult, UnstorableError
from session_worker.ledger.prune import in_batches
from session_worker.ledger.sqlite import database as sqlite_database
from session_worker.ledger.sqlite import pruner as sqlite_pruner
from session_worker.ledger.sqlite.database import path_of
from session_worker.telemetry.events import LedgerNotPruned, LedgerPruned
from tests.support.ledger import (
    DEADLINE,
    a_claim,
    becomes,
    completed,
    entry,
    failed,
    postponed,
    released,
    sql,
    take,
    worker,
)
from tests.support.tcp_proxy import TcpProxy
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from session_worker.ledger.protocol import Claim, Ledger
    from session_worker.ledger.prune import Pruner
    from session_worker.telemetry.events import Event

DAY = 86_400.0
COUNT = "SELECT count(*) FROM requests"


@asynccontextmanager
async def pruner(url: str, older_than: float = 30 * DAY) -> AsyncIterator[Pruner]:
    """Who forgets what finished so long ago."""
    pruner = open_pruner(url)
    try:
        await pruner.open(older_than)
        yield pruner
    finally:
        await pruner.close()


async def pruned(url: str, older_than: float = 30 * DAY) -> list[int]:
    """Forget it now; the sizes of the batches."""
    async with pruner(url, older_than) as each:
        return [deleted async for deleted in in_batches(each)]


async def age(url: str, days: float, *columns: str, where: str = "true") -> None:
    """Let times lie so many days ago."""
    time = (
        f"strftime('%Y-%m-%dT%H:%M:%f000+00:00', 'now', '-{days} days')"
        if url.startswith("sqlite")
        else f"now() - interval '{days} days'"
    )
    await sql(url, f"UPDATE requests SET {', '.join(f'{each} = {time}' for each in columns)} WHERE {where}")


async def done(ledger: Ledger, count: int = 1) -> list[Claim]:
    """Requests that are completed."""
    claims = await asyncio.gather(*(take(ledger) for _ in range(count)))
    assert set(await asyncio.gather(*(ledger.finish(completed(claim)) for claim in claims))) == {
        StepResult.APPLIED
    }
    return claims


async def left(url: str) -> set[UUID]:
    return {UUID(str(row[0])) for row in await sql(url, "SELECT request_id FROM requests")}


async def test_what_finished_long_ago_goes_and_all_else_stays(ledger_url: str) -> None:
    """The end counts: neither what is unfinished, however old, nor what took long and ended lately."""
    async with worker(ledger_url) as ledger:
        (success,) = await done(ledger)
        await ledger.finish(failed(failure := await take(ledger)))
        running, due, handed_back = [await take(ledger) for _ in range(3)]
        await ledger.postpone(postponed(due))
        await ledger.release(released(handed_back))
        await age(ledger_url, 40, "received_at", "updated_at")
        await age(ledger_url, 40, "finished_at", where="finished_at IS NOT NULL")
        (late,) = await done(ledger)
        await age(ledger_url, 40, "received_at", where=f"request_id = '{late.request_id}'")
        (new,) = await done(ledger)
    async with pruner(ledger_url) as each:
        assert await each.count() == 2

    assert await pruned(ledger_url) == [2]

    stays = {claim.request_id for claim in (running, due, handed_back, late, new)}
    assert await left(ledger_url) == stays
    sessions = await sql(ledger_url, "SELECT request_id FROM sessions")
    assert {UUID(str(row[0])) for row in sessions} == {each.request_id for each in (success, late, new)}
    assert failure.request_id not in stays
    assert await pruned(ledger_url) == []


async def test_what_was_reopened_stays(ledger_url: str) -> None:
    """It failed long ago, and has a new round since."""
    async with worker(ledger_url) as ledger:
        await ledger.finish(failed(claim := await take(ledger)))
        await age(ledger_url, 40, "received_at", "updated_at", "finished_at")
        await ledger.reopen(claim.request_id, claim.fingerprint)

        assert await pruned(ledger_url) == []
        assert (await entry(ledger_url, claim.request_id)).status is RequestStatus.PENDING


async def test_batches_are_bounded_and_the_oldest_go_first(
    ledger_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Left after two batches of two, the youngest of five is there; going on needs no memory."""
    monkeypatch.setattr(prune, "BATCH", 2)
    async with worker(ledger_url) as ledger:
        claims = await done(ledger, 5)
    for days, claim in enumerate(claims, start=40):
        await age(ledger_url, days, "received_at", "finished_at", where=f"request_id = '{claim.request_id}'")
    batches = []
    async with pruner(ledger_url) as each:
        async for deleted in in_batches(each):
            batches.append(deleted)
            if len(batches) == 2:
                break

    assert batches == [2, 2]
    assert await left(ledger_url) == {claims[0].request_id}
    assert await pruned(ledger_url) == [1]


async def test_entries_of_one_moment_all_go(ledger_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch of claims shares its time: the next batch begins at that time, not after it."""
    monkeypatch.setattr(prune, "BATCH", 3)
    async with worker(ledger_url) as ledger:
        await done(ledger, 8)
    await sql(ledger_url, "UPDATE requests SET received_at = (SELECT min(received_at) FROM requests)")
    assert await pruned(ledger_url, 0) == [3, 3, 2]


async def test_a_forgotten_request_is_a_new_one_and_a_created_session_stays_the_only_one(
    ledger_url: str,
) -> None:
    """What failed may succeed; what was completed cannot be completed a second time."""
    async with worker(ledger_url) as ledger:
        (success,) = await done(ledger)
        await ledger.finish(failed(failure := await take(ledger)))
        assert await pruned(ledger_url, 0) == [2]

        again = await take(ledger, failure.request_id)
        assert await ledger.finish(completed(again)) is StepResult.APPLIED
        twice = await take(ledger, success.request_id)
        with pytest.raises(UnstorableError):
            await ledger.finish(completed(twice))
        assert await ledger.finish(failed(twice)) is StepResult.APPLIED

    sessions = await sql(ledger_url, "SELECT session_id FROM sessions")
    assert {row[0] for row in sessions} == {success.session_id, again.session_id}


async def test_a_worker_works_on_while_its_ledger_is_pruned(
    ledger_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """New requests, and duplicates of those that are being forgotten: each gets an answer. What vanishes just
    while it is asked for is told to come again at once (PostgreSQL, which asks in two statements)."""
    monkeypatch.setattr(prune, "BATCH", 10)
    monkeypatch.setattr(prune, "REST", 0.1)
    async with worker(ledger_url) as ledger:
        old = await done(ledger, 300)
        await age(ledger_url, 40, "received_at", "updated_at", "finished_at")
        pruning = asyncio.create_task(pruned(ledger_url))
        fresh: list[Claim] = []
        answers: list[Any] = []
        for again in old:
            fresh += await done(ledger, 5)
            answers.append(await ledger.claim(a_claim(again.request_id)))
            if pruning.done():
                break

        vanished = NotNow(0.0, running=False)
        assert [
            each for each in answers if not isinstance(each, Finished | Claimed) and each != vanished
        ] == []
        claimed = sum(isinstance(each, Claimed) for each in answers)
        assert sum(await pruning) == 300
        assert await sql(ledger_url, COUNT) == [(len(fresh) + claimed,)]
        assert ledger.availability.up


async def test_entries_that_a_worker_looks_at_are_left_for_the_next_time(
    postgresql_url: str,
) -> None:
    """Nobody waits for the other: a row that is locked is passed over."""
    async with worker(postgresql_url) as ledger:
        claims = await done(ledger, 3)
    connection = await asyncpg.connect(postgresql_url)
    async with connection.transaction():
        await connection.execute(
            "SELECT FROM requests WHERE request_id = $1 FOR UPDATE", claims[1].request_id
        )
        async with asyncio.timeout(DEADLINE):
            assert await pruned(postgresql_url, 0) == [2]
    await connection.close()
    assert await pruned(postgresql_url, 0) == [1]


async def test_one_prunes_at_a_time_and_its_death_lets_the_next_one(postgresql_url: str) -> None:
    """The lock goes with the connection."""
    async with pruner(postgresql_url) as first:
        with pytest.raises(LedgerError, match="somebody else is pruning"):
            await pruned(postgresql_url)
        first._connection.terminate()  # type: ignore[attr-defined]
        locks = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"
        await becomes(postgresql_url, locks, [(0,)])
        assert await pruned(postgresql_url) == []


async def test_a_batch_that_is_cut_off_is_whole_or_nothing(postgresql_url: str) -> None:
    """Its backend is killed within: nothing is lost but the batch, and the next try ends it."""
    async with worker(postgresql_url) as ledger:
        await done(ledger, 5)
    await sql(
        postgresql_url,
        "CREATE FUNCTION die() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); PERFORM pg_sleep(20); RETURN NULL; END $$",
    )
    await sql(postgresql_url, "CREATE TRIGGER die AFTER DELETE ON requests EXECUTE FUNCTION die()")
    with pytest.raises(LedgerError, match="the ledger's PostgreSQL at"):
        await pruned(postgresql_url, 0)
    assert await sql(postgresql_url, COUNT) == [(5,)]

    await sql(postgresql_url, "DROP TRIGGER die ON requests")
    assert await pruned(postgresql_url, 0) == [5]


async def test_a_turn_to_write_is_waited_for(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process holds the file longer than SQLite itself waits; not for ever."""
    monkeypatch.setattr(sqlite_database, "BUSY_TIMEOUT", 0.05)
    async with worker(sqlite_url) as ledger:
        await done(ledger, 3)
    with closing(sqlite3.connect(path_of(sqlite_url), isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        monkeypatch.setattr(sqlite_pruner, "TURN_TIMEOUT", 0.2)
        with pytest.raises(LedgerError, match="locked by another process"):
            await pruned(sqlite_url, 0)
        monkeypatch.setattr(sqlite_pruner, "TURN_TIMEOUT", 20.0)
        pruning = asyncio.create_task(pruned(sqlite_url, 0))
        await asyncio.wait({pruning}, timeout=0.2)
        assert not pruning.done()
        other.execute("COMMIT")
    assert await pruning == [3]


async def test_without_a_schema_or_a_file_it_is_a_sentence(empty_postgresql_url: str, tmp_path: Path) -> None:
    """The same as for every other command; and nothing is created."""
    with pytest.raises(LedgerError, match="session-worker ledger upgrade"):
        await pruned(empty_postgresql_url)
    with pytest.raises(LedgerError, match="there is no ledger file"):
        await pruned(f"sqlite:///{tmp_path}/ledger.db")
    assert list(tmp_path.iterdir()) == []
    url = f"sqlite:///{tmp_path}/ledger.db"
    path_of(url).touch()
    with pytest.raises(LedgerError, match="session-worker ledger upgrade"):
        await pruned(url)


async def test_a_worker_prunes_in_the_background_and_tries_again(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A ledger that cannot be pruned now is no reason to stop; the block ends at once."""
    monkeypatch.setattr(prune, "ROUND_SECONDS", 0.01)
    heard: list[Event] = []
    background = prune.in_background(lambda: open_pruner(sqlite_url), 30 * DAY, heard.append)
    async with background:
        await eventually(lambda: heard)
        assert isinstance(heard[0], LedgerNotPruned)
        async with worker(sqlite_url) as ledger:
            claims = await done(ledger, 2)
            old = f"request_id = '{claims[0].request_id}'"
            await age(sqlite_url, 40, "received_at", "finished_at", where=old)
            await becomes(sqlite_url, COUNT, [(1,)])
            await eventually(lambda: LedgerPruned(1) in heard)
    assert await left(sqlite_url) == {claims[1].request_id}
    assert {type(event) for event in heard} == {LedgerNotPruned, LedgerPruned}


async def test_a_worker_leaves_it_to_the_one_that_prunes(
    postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That is nothing to report; it looks again in the next round."""
    monkeypatch.setattr(prune, "ROUND_SECONDS", 0.01)
    heard: list[object] = []
    tried: list[Pruner] = []

    def make() -> Pruner:
        tried.append(open_pruner(postgresql_url))
        return tried[-1]

    await upgrade(postgresql_url)
    background = prune.in_background(make, 30 * DAY, heard.append)
    async with pruner(postgresql_url), background:
        await eventually(lambda: len(tried) > 2)
        assert heard == []


async def test_a_worker_whose_pruning_gets_no_answer_says_so_and_tries_again(
    postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network swallows a batch: it must not wait for ever with the lock that keeps the others out."""
    monkeypatch.setattr(prune, "ROUND_SECONDS", 0.01)
    monkeypatch.setattr(prune, "STATEMENT_TIMEOUT", 1.0)
    heard: list[Event] = []
    async with worker(postgresql_url) as ledger:
        await done(ledger, 2)
    await age(postgresql_url, 40, "received_at", "finished_at")
    async with TcpProxy(postgresql_url) as proxy:

        class Swallowed(PostgreSQLPruner):
            async def delete(self, limit: int) -> int:
                if not heard:
                    proxy.swallow()
                return await super().delete(limit)

        async with prune.in_background(lambda: Swallowed(proxy.url), 30 * DAY, heard.append):
            await eventually(lambda: LedgerPruned(2) in heard)
    assert isinstance(heard[0], LedgerNotPruned)
    assert "does not answer in time" in heard[0].reason
    assert await left(postgresql_url) == set()


async def test_only_in_the_background_the_server_ends_a_statement_that_takes_too_long(
    postgresql_url: str,
) -> None:
    """An operator, who can watch it and end it, lets it take its time."""
    for seconds, limit in ((60.0, "1min"), (None, "0")):
        pruner = PostgreSQLPruner(postgresql_url)
        try:
            await pruner.open(30 * DAY, statement_timeout=seconds)
            assert (await pruner._fetch("SHOW statement_timeout"))[0][0] == limit
        finally:
            await pruner.close()


async def test_without_a_retention_nothing_is_pruned() -> None:
    """Not even looked at."""
    async with prune.in_background(lambda: pytest.fail("a pruner was made"), None):
        await asyncio.sleep(0)


async def test_an_unknown_ledger_is_a_sentence() -> None:
    """As for every other command."""
    with pytest.raises(LedgerError, match=r"must start with sqlite:/// or postgresql://"):
        open_pruner(f"mysql://host/{uuid4().hex}")
