"""From SQLite to PostgreSQL: everything comes along, or nothing does."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from session_contracts import ErrorCode
from session_worker.ledger import LedgerError, open_reader
from session_worker.ledger.copy import BATCH, copy
from session_worker.ledger.protocol import Claimed, Finished, Mismatch
from tests.support.ledger import a_claim, completed, entry, failed, postponed, released, sql, take, worker

if TYPE_CHECKING:
    from session_worker.ledger.protocol import Claim

COLUMNS = {
    "sqlite": "SELECT name FROM pragma_table_info('{}')",
    "postgresql": "SELECT attname FROM pg_attribute WHERE attrelid = '{}'::regclass AND attnum > 0",
}


async def lived(url: str) -> list[Claim]:
    """A ledger with a request in every state; their claims."""
    async with worker(url) as ledger:
        done, sorry, waiting, back, running = [await take(ledger) for _ in range(5)]
        await ledger.finish(completed(done, b"\x00\xff the answer"))
        await ledger.finish(failed(sorry))
        await ledger.postpone(postponed(waiting))
        await ledger.release(released(back))
    return [done, sorry, waiting, back, running]


@pytest.mark.parametrize("table", ["requests", "sessions"])
async def test_both_schemas_have_the_same_columns(table: str, sqlite_url: str, postgresql_url: str) -> None:
    """Those that a migration adds to one of them only could not be copied."""
    async with worker(sqlite_url):
        there, here = [
            {name for (name,) in await sql(url, COLUMNS[url.partition(":")[0]].format(table))}
            for url in (sqlite_url, postgresql_url)
        ]
    assert there == here


async def test_what_was_known_is_known_and_goes_on(sqlite_url: str, postgresql_url: str) -> None:
    """Every state with its history; a duplicate gets the stored bytes, a conflict is one, a running request
    is taken over."""
    claims = await lived(sqlite_url)
    assert await copy(sqlite_url, postgresql_url) == (5, 1)

    for claim in claims:
        assert await entry(postgresql_url, claim.request_id) == await entry(sqlite_url, claim.request_id)
    done, sorry, _, back, running = claims
    async with worker(postgresql_url) as ledger:
        again = await ledger.claim(a_claim(done.request_id))
        assert isinstance(again, Finished)
        assert again.response == b"\x00\xff the answer"
        assert isinstance(await ledger.claim(a_claim(sorry.request_id, fingerprint=b"\x02" * 32)), Mismatch)
        for claim in (back, running):
            new = a_claim(claim.request_id)
            taken = await ledger.claim(new)
            assert isinstance(taken, Claimed)
            assert taken.session_id == claim.session_id
            await ledger.finish(completed(new))
    assert await sql(postgresql_url, "SELECT count(*) FROM sessions") == [(3,)]


async def identity(url: str) -> str:
    reader = open_reader(url)
    await reader.open()
    try:
        return await reader.identity()
    finally:
        await reader.close()


async def test_a_copy_counts_as_the_same_ledger(sqlite_url: str, postgresql_url: str) -> None:
    """The queues at the broker that belong to the one belong to the other then."""
    await lived(sqlite_url)
    assert await identity(postgresql_url) != await identity(sqlite_url)
    await copy(sqlite_url, postgresql_url)
    assert await identity(postgresql_url) == await identity(sqlite_url)


async def test_more_than_a_batch_is_copied(sqlite_url: str, postgresql_url: str) -> None:
    async with worker(sqlite_url) as ledger:
        claim = await take(ledger)
        await ledger.finish(failed(claim, ErrorCode.REJECTED))
    columns = "status, attempt, token, fingerprint, session_id, user_id, operation, received_at, updated_at"
    columns += ", history"
    await sql(
        sqlite_url,
        f"WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n LIMIT {2 * BATCH}) "
        f"INSERT INTO requests (request_id, {columns}) "
        f"SELECT printf('00000000-0000-4000-8000-%012d', n), {columns} FROM requests, n",
    )
    assert await copy(sqlite_url, postgresql_url) == (2 * BATCH + 1, 0)
    assert await sql(postgresql_url, "SELECT count(*) FROM requests") == [(2 * BATCH + 1,)]


async def test_a_ledger_in_use_is_not_copied(sqlite_url: str, postgresql_url: str) -> None:
    async with worker(sqlite_url, "ada-1"):
        with pytest.raises(LedgerError, match="worker ada-1 uses the ledger to copy from; stop it"):
            await copy(sqlite_url, postgresql_url)


async def test_nothing_is_copied_into_a_ledger_that_has_requests(
    sqlite_url: str, postgresql_url: str
) -> None:
    """Nor twice."""
    await lived(sqlite_url)
    await copy(sqlite_url, postgresql_url)
    with pytest.raises(LedgerError, match="has requests already"):
        await copy(sqlite_url, postgresql_url)


async def test_a_copy_that_fails_leaves_nothing(sqlite_url: str, postgresql_url: str) -> None:
    """Here at the second table: another session of the same request is there."""
    claims = await lived(sqlite_url)
    await sql(
        postgresql_url,
        "INSERT INTO sessions (session_id, request_id, user_id, created_at)"
        f" VALUES ('ts_1', '{claims[0].request_id}', 'ada@example.com', now())",
    )
    with pytest.raises(LedgerError, match="duplicate key"):
        await copy(sqlite_url, postgresql_url)
    assert await sql(postgresql_url, "SELECT count(*) FROM requests") == [(0,)]


async def test_what_cannot_be_copied_is_said_in_a_sentence(
    sqlite_url: str, postgresql_url: str, empty_postgresql_url: str
) -> None:
    """No file, no schema, the wrong kind of ledger on either side."""
    async with worker(sqlite_url):
        pass
    for source, target, said in [
        (f"{sqlite_url}-{uuid4().hex}", postgresql_url, "cannot be opened"),
        (sqlite_url, empty_postgresql_url, "session-worker ledger upgrade"),
        (postgresql_url, postgresql_url, "sqlite:///file.db"),
        (sqlite_url, sqlite_url, "not a PostgreSQL one"),
    ]:
        with pytest.raises(LedgerError, match=said):
            await copy(source, target)
