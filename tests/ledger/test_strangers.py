"""Another program's tables under the names of ours are told before anything is touched, and a way out."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from session_worker.ledger import LedgerError, open_ledger, open_pruner, open_reader, upgrade
from session_worker.ledger.copy import copy
from session_worker.ledger.migrations import migrations, tables
from session_worker.ledger.sqlite.database import path_of
from tests.support.ledger import sql, take, worker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

NEWEST = migrations("sqlite")[-1].version
FLYWAY = "CREATE TABLE schema_version (installed_rank integer, version varchar(50), description varchar(200))"
VERSIONS = "CREATE TABLE schema_version (version integer, applied_at text)"
VERSION_1 = f"{VERSIONS}; INSERT INTO schema_version VALUES (1, '')"
STRANGE = {
    "Flyway's versions": f"{FLYWAY}; INSERT INTO schema_version VALUES (1, '1.0', 'first')",
    "versions as text": "CREATE TABLE schema_version (version text, applied_at text); "
    "INSERT INTO schema_version VALUES ('1', '')",
    "versions and nothing else": VERSION_1,
    "versions that are none": VERSIONS,
    "occupied sessions": "CREATE TABLE sessions (id integer, data text)",
    "occupied requests": "CREATE TABLE requests (request_id text, url text)",
    "occupied workers": "CREATE TABLE workers (name text)",
    "views": "CREATE TABLE things (session_id text); CREATE VIEW sessions AS SELECT session_id FROM things",
    "all names, other columns": f"{VERSION_1}; CREATE TABLE requests (a text); "
    "CREATE TABLE sessions (a text); CREATE TABLE workers (a text)",
}


async def run_script(url: str, script: str) -> None:
    for statement in script.split("; "):
        await sql(url, statement)


async def refusals(url: str, spare_sqlite: str, spare_postgresql: str) -> AsyncIterator[str]:
    """The sentences of everything that opens a ledger."""
    ledger = open_ledger(url, worker_id="me", holder_timeout=15, migrate=True)
    reader, pruner = open_reader(url), open_pruner(url)
    source, target = (url, spare_postgresql) if url.startswith("sqlite") else (spare_sqlite, url)
    for use in (upgrade(url), ledger.open(), reader.open(), pruner.open(86_400), copy(source, target)):
        with pytest.raises(LedgerError) as caught:
            await use
        yield str(caught.value)
    for each in (ledger, reader, pruner):
        await each.close()


@pytest.mark.parametrize("script", STRANGE.values(), ids=STRANGE)
async def test_another_programs_tables_in_postgresql_are_refused_and_left_alone(
    empty_postgresql_url: str, sqlite_url: str, script: str
) -> None:
    url = empty_postgresql_url
    await upgrade(sqlite_url)
    await run_script(url, script)
    catalogue = "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace ORDER BY 1"
    before = await sql(url, catalogue)

    async for said in refusals(url, sqlite_url, url):
        assert "in schema public is not the ledger's" in said
        assert "CREATE SCHEMA session_worker" in said
        assert "?options=-csearch_path%3Dsession_worker at the end" in said

    assert await sql(url, catalogue) == before


@pytest.mark.parametrize(
    "script", [*STRANGE.values(), "CREATE TABLE places (id integer)"], ids=[*STRANGE, "none"]
)
async def test_another_programs_sqlite_file_is_refused_and_left_alone(
    sqlite_url: str, postgresql_url: str, script: str
) -> None:
    """Not a byte of it changes, and no file appears beside it."""
    path = path_of(sqlite_url)
    await run_script(sqlite_url, script)
    before = path.read_bytes()

    async for said in refusals(sqlite_url, sqlite_url, postgresql_url):
        assert f"the file {path} is another program's database" in said
        assert "name another file in the ledger's URL" in said

    assert path.read_bytes() == before
    assert [each.name for each in path.parent.iterdir()] == [path.name]


async def test_the_way_out_that_is_named_works(empty_postgresql_url: str) -> None:
    """A schema of the ledger's own beside the other program's tables; until it is made, that is said."""
    await run_script(empty_postgresql_url, STRANGE["Flyway's versions"])
    url = f"{empty_postgresql_url}?options=-csearch_path%3Dsession_worker"
    with pytest.raises(LedgerError, match="has no schema of its search_path; make it with CREATE SCHEMA"):
        await upgrade(url)
    await sql(empty_postgresql_url, "CREATE SCHEMA session_worker")

    assert await upgrade(url) == (0, NEWEST)
    async with worker(url) as ledger:
        await take(ledger)
    with pytest.raises(LedgerError, match="&options=-csearch_path"):
        await upgrade(f"{empty_postgresql_url}?options=-csearch_path%3Dpublic")


async def test_a_table_that_another_schema_of_the_search_path_hides_is_refused(postgresql_url: str) -> None:
    """Half of the names would lead to the ledger, and one elsewhere."""
    await sql(postgresql_url, "CREATE SCHEMA app")
    await sql(postgresql_url, "CREATE TABLE app.sessions (id integer)")

    with pytest.raises(LedgerError, match="sessions in schema app is not the ledger's"):
        await upgrade(f"{postgresql_url}?options=-csearch_path%3Dapp,public")


async def test_a_ledger_further_down_the_search_path_is_used_and_upgraded_where_it_is(
    empty_postgresql_url: str,
) -> None:
    """What an upgrade adds goes beside the other tables, not to the first schema of the path."""
    url = f"{empty_postgresql_url}?options=-csearch_path%3Dapp,public"
    await upgrade(empty_postgresql_url)
    await sql(empty_postgresql_url, "CREATE SCHEMA app")

    assert await upgrade(url) == (NEWEST, NEWEST)
    async with worker(url) as ledger:
        await take(ledger)
    assert await sql(url, "SELECT FROM pg_class WHERE relnamespace = 'app'::regnamespace") == []


@pytest.mark.parametrize(
    "taken", ["CREATE TYPE sessions AS ENUM ('a')", "CREATE SEQUENCE requests_received_at"]
)
async def test_any_other_name_that_is_taken_is_a_sentence_and_nothing_is_made(
    empty_postgresql_url: str, taken: str
) -> None:
    await sql(empty_postgresql_url, taken)

    with pytest.raises(LedgerError, match=r"already exists; give the ledger a schema of its own"):
        await upgrade(empty_postgresql_url)
    assert await sql(empty_postgresql_url, "SELECT to_regclass('workers')") == [(None,)]


async def test_more_tables_beside_the_ledgers_are_nobodys_business(ledger_url: str) -> None:
    """Such as those of a backup program, or of the handlers."""
    await upgrade(ledger_url)
    await sql(ledger_url, "CREATE TABLE _backup (id integer)")

    assert await upgrade(ledger_url) == (NEWEST, NEWEST)
    async with worker(ledger_url) as ledger:
        await take(ledger)


async def test_both_databases_have_the_same_columns(postgresql_url: str) -> None:
    """``tables`` reads them from the migrations of one."""
    found = await sql(
        postgresql_url,
        "SELECT table_name::text, array_agg(column_name::text) FROM information_schema.columns"
        " WHERE table_schema = 'public' GROUP BY 1",
    )
    assert {name: set(columns) for name, columns in found} == tables(NEWEST)


async def test_a_file_that_is_ours_is_switched_to_wal_again(sqlite_url: str) -> None:
    await upgrade(sqlite_url)
    with closing(sqlite3.connect(path_of(sqlite_url))) as other:
        other.execute("PRAGMA journal_mode = DELETE")
    await upgrade(sqlite_url)
    assert await sql(sqlite_url, "PRAGMA journal_mode") == [("wal",)]
