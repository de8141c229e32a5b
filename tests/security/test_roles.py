"""The database's roles of docs/security.md: each can do its work, and no more."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import asyncpg
import pytest

from session_contracts import RequestStatus
from session_worker.ledger import open_ledger, open_reader
from session_worker.ledger.protocol import LedgerError, StepResult
from tests.support.ledger import completed, entry, failed, postponed, released, take, worker
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from tests.acceptance.conftest import Cli
    from tests.security.conftest import Secured


async def run(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


async def test_the_worker_takes_every_step(secured: Secured) -> None:
    """With the register's and those that an operator's redrive takes."""
    async with worker(secured.ledger_url("worker")) as ledger:
        assert await ledger.finish(completed(await take(ledger))) is StepResult.APPLIED
        done = await take(ledger)
        assert await ledger.finish(failed(done)) is StepResult.APPLIED
        await ledger.note_undeliverable(done.request_id, done.token)
        await ledger.note_parked(done.request_id, done.token)
        assert await ledger.postpone(postponed(await take(ledger))) == 60
        assert await ledger.release(released(await take(ledger))) is StepResult.APPLIED
    assert (await entry(secured.ledger_url("reader"), done.request_id)).reply == "undeliverable"


async def test_the_readers_role_may_read_what_commands_show(secured: Secured, cli: Cli) -> None:
    async with worker(secured.ledger_url("worker")) as ledger:
        done = await take(ledger)
        await ledger.finish(completed(done))
    url = secured.ledger_url("reader")
    assert cli("status", done.request_id, ledger_url=url).code == 0
    assert cli("requests", ledger_url=url).code == 0
    reader = open_reader(url)
    await reader.open()
    try:
        assert await reader.find(status=RequestStatus.COMPLETED)
        assert await reader.count_sessions() > 0
    finally:
        await reader.close()


async def test_the_operator_does_the_workers_steps_and_prunes(secured: Secured, cli: Cli) -> None:
    async with worker(secured.ledger_url("operator")) as ledger:
        await ledger.finish(completed(await take(ledger)))
    pruned = cli("ledger", "prune", "--older-than", "30d", ledger_url=secured.ledger_url("operator"))
    assert pruned.code == 0, pruned.err


@pytest.mark.parametrize(
    ("role", "statement"),
    [
        ("reader", "UPDATE requests SET error = ''"),
        ("reader", "DELETE FROM requests"),
        ("reader", "INSERT INTO workers VALUES ('me', now(), now(), now())"),
        ("reader", "CREATE TABLE mine (id int)"),
        ("worker", "DELETE FROM requests"),
        ("worker", "DELETE FROM sessions"),
        ("worker", "UPDATE sessions SET user_id = ''"),
        ("worker", "UPDATE schema_version SET version = 99"),
        ("worker", "CREATE TABLE mine (id int)"),
        ("worker", "CREATE TEMPORARY TABLE mine (id int)"),
        ("worker", "SELECT lo_create(0)"),
        ("worker", "SELECT lo_creat(-1)"),
        ("worker", "SELECT lo_from_bytea(0, 'data')"),
        ("operator", "SELECT lo_create(0)"),
        ("reader", "SELECT lo_from_bytea(0, 'data')"),
        ("operator", "DELETE FROM sessions"),
        ("operator", "DROP TABLE requests"),
    ],
)
async def test_a_role_may_not_do_what_another_role_is_for(
    secured: Secured, role: str, statement: str
) -> None:
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await run(secured.ledger_url(role), statement)


async def test_a_user_without_a_role_may_not_even_connect(secured: Secured) -> None:
    secured.sql(f"CREATE ROLE stranger LOGIN PASSWORD '{secured.secret}'")
    try:
        login = urlsplit(secured.ledger_url("reader")).netloc.rpartition("@")[0]
        url = secured.ledger_url("reader").replace(login, f"stranger:{secured.secret}")
        with pytest.raises(LedgerError, match="does not permit it to user stranger"):
            await open_reader(url).open()
    finally:
        secured.sql("DROP ROLE stranger")


@pytest.mark.parametrize(
    ("table", "privilege"), [("requests", "UPDATE"), ("sessions", "SELECT"), ("workers", "DELETE")]
)
async def test_a_worker_that_starts_without_a_grant_names_it(
    secured: Secured, table: str, privilege: str
) -> None:
    secured.sql(f"REVOKE {privilege} ON {table} FROM session_worker")
    try:
        ledger = open_ledger(secured.ledger_url("worker"), worker_id="poor", holder_timeout=15)
        with pytest.raises(LedgerError, match=f"GRANT {privilege} ON {table} TO session_worker "):
            await ledger.open()
    finally:
        secured.sql(f"GRANT {privilege} ON {table} TO session_worker")


async def test_commands_without_a_grant_name_the_role(secured: Secured, cli: Cli) -> None:
    """And never its password."""
    upgraded = cli("ledger", "prune", "--older-than", "30d", ledger_url=secured.ledger_url("reader"))
    assert upgraded.code == 1
    assert "does not permit it to user session_reader (permission denied for table requests)" in upgraded.err
    assert secured.secret not in upgraded.err


async def test_a_grant_that_is_withdrawn_is_waited_for(secured: Secured) -> None:
    """The step is not given up, and the worker knows why it waits."""
    async with worker(secured.ledger_url("worker")) as ledger:
        claim = await take(ledger)
        secured.sql("REVOKE INSERT ON sessions FROM session_worker")
        try:
            finishing = asyncio.create_task(ledger.finish(completed(claim)))
            await eventually(lambda: not ledger.availability.up)
            assert "permission denied for table sessions" in ledger.availability.reason
            assert not finishing.done()
        finally:
            secured.sql("GRANT INSERT ON sessions TO session_worker")
        assert await finishing is StepResult.APPLIED
