"""PostgreSQL finds entries by their key, in the order of the batch, whatever it knows of the table."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING

import pytest

from session_worker.ledger import upgrade
from session_worker.ledger.postgresql import statements as postgresql_statements
from session_worker.ledger.postgresql.connection import connect
from tests.support.ledger import a_claim, becomes, completed, worker

if TYPE_CHECKING:
    import asyncpg

KEYED = ("CLAIM", "ENTRIES", "FINISH", "POSTPONE", "RELEASE", "REOPEN", "NOTE")
ENTRIES = """
INSERT INTO requests (request_id, status, attempt, token, fingerprint, session_id, user_id, operation,
    received_at, updated_at, finished_at, error_code, history)
SELECT gen_random_uuid(), CASE WHEN failed THEN 'failed' ELSE 'completed' END, 1, gen_random_uuid(), '', n,
    'ada', 'create_session', now() - n * interval '1 s', now(), now(),
    CASE WHEN failed THEN 'handler_failed' END, '[]'
FROM generate_series(1, 20000) AS n, (SELECT $1::boolean AS failed) AS all_of_them
"""


async def _indexes(connection: asyncpg.Connection, name: str) -> set[str]:
    """The indexes of ``requests`` that the statement's plan reads."""
    sql = getattr(postgresql_statements, name)
    parameters = len(set(re.findall(r"\$\d+", sql)))
    await connection.execute(f"PREPARE one AS {sql}")
    plan = await connection.fetch(f"EXPLAIN EXECUTE one ({', '.join(['NULL'] * parameters)})")
    await connection.execute("DEALLOCATE one")
    text = "\n".join(row[0] for row in plan)
    assert "Seq Scan on requests" not in text, text
    return set(re.findall(r"requests_\w+", text))


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


async def test_postgresql_uses_its_indexes_however_large_the_tables(postgresql_url: str) -> None:
    """Plans are made while the tables are empty; no statement of the worker may read them whole."""
    async with worker(postgresql_url) as ledger:
        for _ in range(10):
            claims = [a_claim() for _ in range(20)]
            await asyncio.gather(*map(ledger.claim, claims))
            await asyncio.gather(*(ledger.finish(completed(claim)) for claim in claims))
            await asyncio.gather(*(ledger.claim(a_claim(claim.request_id)) for claim in claims))
            await asyncio.gather(*(ledger.note_parked(claim.request_id, claim.token) for claim in claims))
    await becomes(
        postgresql_url,
        "SELECT seq_scan, n_tup_ins FROM pg_stat_user_tables WHERE relname = 'requests'",
        [(0, 200)],
    )
