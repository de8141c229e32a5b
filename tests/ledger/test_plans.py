"""PostgreSQL finds entries by their key, in the order of the batch, whatever it knows of the table."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING

import pytest

from session_contracts import ListSessionsPayload
from session_worker.ledger import upgrade
from session_worker.ledger.postgresql import ledger as postgresql_ledger
from session_worker.ledger.postgresql import statements as postgresql_statements
from session_worker.ledger.postgresql.connection import connect
from tests.support.ledger import DEADLINE, a_claim, becomes, completed, worker

if TYPE_CHECKING:
    import asyncpg

KEYED = ("CLAIM", "ENTRIES", "FINISH", "POSTPONE", "RELEASE", "REOPEN", "NOTE", "LOCKED", "LOCKED_NAMED")
OF_SESSIONS = {
    "FINISH": {"sessions_pkey"},
    "CLOSE_SESSION": {"sessions_pkey"},
    "LOCKED_NAMED": {"sessions_pkey"},
    "LOCKED_SESSIONS": {"sessions_pkey"},
    "SESSIONS": {"sessions_pkey"},
    "LISTS": {"sessions_of_user"},
}
"""By which index a statement finds sessions."""
SESSIONS = """
INSERT INTO sessions (session_id, request_id, user_id, created_at)
SELECT n, gen_random_uuid(), CASE WHEN $1 THEN 'ada' ELSE 'user' || n END, now() - n * interval '1 s'
FROM generate_series(1, 20000) AS n
"""
ENTRIES = """
INSERT INTO requests (request_id, status, attempt, token, fingerprint, session_id, user_id, operation,
    received_at, updated_at, finished_at, error_code, history)
SELECT gen_random_uuid(), CASE WHEN failed THEN 'failed' ELSE 'completed' END, 1, gen_random_uuid(), '', n,
    'ada', 'create_session', now() - n * interval '1 s', now(), now(),
    CASE WHEN failed THEN 'handler_failed' END, '[]'
FROM generate_series(1, 20000) AS n, (SELECT $1::boolean AS failed) AS all_of_them
"""


async def _indexes(connection: asyncpg.Connection, name: str, table: str = "requests") -> set[str]:
    """The indexes of ``table`` that the statement's plan reads."""
    sql = getattr(postgresql_statements, name)
    parameters = len(set(re.findall(r"\$\d+", sql)))
    await connection.execute(f"PREPARE one AS {sql}")
    plan = await connection.fetch(f"EXPLAIN EXECUTE one ({', '.join(['NULL'] * parameters)})")
    await connection.execute("DEALLOCATE one")
    text = "\n".join(row[0] for row in plan)
    assert f"Seq Scan on {table}" not in text, text
    return set(re.findall(rf"{table}_(?:pkey|of_user|\w+_key|received_at|with\w+)", text))


@pytest.mark.parametrize("known", ["nothing", "an empty table", "no failures", "failures alone"])
async def test_every_step_finds_its_entries_by_their_ids(postgresql_url: str, known: str) -> None:
    """By another index it would lock them in another order than other workers do, and look at all failures
    for each of a batch."""
    await upgrade(postgresql_url)
    connection = await connect(postgresql_url)
    try:
        if known in ("no failures", "failures alone"):
            await connection.execute(ENTRIES, known == "failures alone")
        if known != "nothing":
            await connection.execute("ANALYZE requests")
        found = {name: await _indexes(connection, name) for name in KEYED}
    finally:
        await connection.close()
    assert found == {name: {"requests_pkey"} for name in KEYED}


@pytest.mark.parametrize("known", ["nothing", "a session each", "one user's sessions"])
async def test_sessions_are_found_by_their_ids_or_their_user(postgresql_url: str, known: str) -> None:
    """Whatever PostgreSQL knows of them, nobody looks at the sessions of others for a user's."""
    connection = await connect(postgresql_url)
    try:
        if known != "nothing":
            await connection.execute(SESSIONS, known == "one user's sessions")
            await connection.execute("ANALYZE sessions")
        found = {name: await _indexes(connection, name, "sessions") for name in OF_SESSIONS}
    finally:
        await connection.close()
    assert found == OF_SESSIONS


async def test_postgresql_uses_its_indexes_however_large_the_tables(postgresql_url: str) -> None:
    """Plans are made while the tables are empty; no statement of the worker may read them whole."""
    async with worker(postgresql_url) as ledger:
        for _ in range(10):
            claims = [a_claim() for _ in range(20)]
            await asyncio.gather(*map(ledger.claim, claims))
            await asyncio.gather(*(ledger.finish(completed(claim)) for claim in claims))
            await asyncio.gather(*(ledger.claim(a_claim(claim.request_id)) for claim in claims))
            await asyncio.gather(*(ledger.note_parked(claim.request_id, claim.token) for claim in claims))
            namers = [a_claim(session_id=claim.session_id) for claim in claims]
            await asyncio.gather(*map(ledger.claim, namers))
            await asyncio.gather(*(ledger.finish(completed(claim, session=None)) for claim in namers))
            for claim in claims:
                await ledger.get_session(claim.session_id or "", claim.user_id)
            await ledger.list_sessions(ListSessionsPayload(), claims[0].user_id)
            await ledger.close_session(claims[0].session_id or "", claims[0].user_id)
    await becomes(
        postgresql_url,
        "SELECT seq_scan, n_tup_ins FROM pg_stat_user_tables WHERE relname = 'requests'",
        [(0, 400)],
    )
    await becomes(
        postgresql_url,
        "SELECT seq_scan, n_tup_ins FROM pg_stat_user_tables WHERE relname = 'sessions'",
        [(0, 200)],
    )


@pytest.mark.parametrize("act", ["finish", "close"])
async def test_sessions_are_locked_in_the_order_of_their_ids(
    postgresql_url: str, act: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the order in which a batch names them: so no two batches wait for each other."""
    monkeypatch.setattr(postgresql_ledger, "LOCK_TIMEOUT", DEADLINE)
    free = "SELECT session_id FROM sessions ORDER BY session_id FOR UPDATE SKIP LOCKED"
    async with worker(postgresql_url) as ledger:
        claims = [a_claim() for _ in range(10)]
        await asyncio.gather(*map(ledger.claim, claims))
        await asyncio.gather(*(ledger.finish(completed(claim)) for claim in claims))
        ids = sorted(claim.session_id or "" for claim in claims)
        namers = [a_claim(session_id=session_id) for session_id in reversed(ids)]
        await asyncio.gather(*map(ledger.claim, namers))
        connection = await connect(postgresql_url)
        try:
            async with connection.transaction():
                await connection.execute("SELECT FROM sessions WHERE session_id = $1 FOR UPDATE", ids[4])
                acting = asyncio.gather(
                    *(
                        ledger.finish(completed(claim, session=None))
                        if act == "finish"
                        else ledger.close_session(claim.session_id or "", claim.user_id)
                        for claim in namers
                    )
                )
                await becomes(postgresql_url, free, [(each,) for each in ids[5:]])
            await acting
        finally:
            await connection.close()


async def test_postgresql_updates_rows_where_they_are(postgresql_url: str) -> None:
    """An outcome, and what a session counts, cost the indexes nothing (HOT)."""
    async with worker(postgresql_url) as ledger:
        claims = [a_claim() for _ in range(200)]
        await asyncio.gather(*map(ledger.claim, claims))
        await asyncio.gather(*(ledger.finish(completed(claim)) for claim in claims))
        for _ in range(2):
            namers = [a_claim(session_id=claim.session_id) for claim in claims]
            await asyncio.gather(*map(ledger.claim, namers))
            await asyncio.gather(*(ledger.finish(completed(claim, session=None)) for claim in namers))
        await asyncio.gather(
            *(ledger.close_session(claim.session_id or "", claim.user_id) for claim in claims)
        )
    await becomes(
        postgresql_url,
        "SELECT relname, n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables"
        " WHERE relname IN ('requests', 'sessions') ORDER BY relname",
        [("requests", 600, 600), ("sessions", 600, 600)],
    )
