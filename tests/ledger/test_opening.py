"""Opening and upgrading a ledger, and the sentences that say why it cannot be."""

from __future__ import annotations

import asyncio
import getpass
import os
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import asyncpg
import pytest

from session_worker.ledger import LedgerError, open_ledger, open_pruner, open_reader, upgrade
from session_worker.ledger.migrations import migrations
from session_worker.ledger.postgresql.connection import connect, hang_up
from session_worker.ledger.postgresql.errors import diagnose
from session_worker.ledger.sqlite import database as sqlite_database
from session_worker.ledger.sqlite.database import path_of
from tests.support.ledger import becomes, sql, take, worker

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.servers import PostgreSQL

PASSWORD = "s3cret"
NEWEST = migrations("sqlite")[-1].version


def open_files() -> list[str]:
    """What this process has open."""
    names = []
    for link in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):
            names.append(str(link.readlink()))
    return names


async def refusal(url: str) -> str:
    """The sentence with which a worker's ledger and an operator's refuse to open. Neither a thread nor an
    open file stays."""
    with pytest.raises(LedgerError) as caught:
        async with worker(url):
            pass
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("ledger")]
    reader = open_reader(url)
    with pytest.raises(LedgerError) as caught_too:
        await reader.open()
    pruner = open_pruner(url)
    with pytest.raises(LedgerError) as caught_again:
        await pruner.open(1.0)
    assert [name for name in open_files() if name.endswith(url.rpartition("/")[2])] == []
    del caught_too, caught_again  # whose tracebacks have held what was not closed
    text = str(caught.value)
    assert PASSWORD not in text
    assert "\n" not in text
    return text


@pytest.mark.parametrize(
    "url", ["", "mysql://host/db", "postgresql+asyncpg://host/db", "ledger.db", "sqlite.db"]
)
def test_an_unknown_scheme_is_a_sentence(url: str) -> None:
    """It names the two schemes that there are."""
    with pytest.raises(LedgerError, match=r"must start with sqlite:/// or postgresql://"):
        open_ledger(url, worker_id="me", holder_timeout=15)


@pytest.mark.parametrize(
    "url",
    ["sqlite:", "sqlite://", "sqlite:///", "sqlite:///:memory:", "sqlite:///%00.db", "sqlite://file.db"],
)
def test_a_sqlite_url_must_name_a_file(url: str) -> None:
    """Memory is no ledger."""
    with pytest.raises(LedgerError, match=r"names no file"):
        open_reader(url)


async def test_what_is_no_regular_file_is_refused_before_sqlite_touches_it() -> None:
    """SQLite would leave a journal beside a device."""
    with pytest.raises(LedgerError, match="/dev/null is no regular file"):
        await upgrade("sqlite:////dev/null")
    assert not Path("/dev/null-journal").exists()


def test_postgresql_is_imported_only_for_its_urls() -> None:
    """A worker on SQLite does not need the driver, nor the time to load it."""
    program = (
        "import sys; from session_worker.ledger import open_ledger, open_reader;"
        "open_ledger('sqlite:///x.db', worker_id='me', holder_timeout=1); open_reader('sqlite:///x.db');"
        "sys.exit('asyncpg' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


async def test_upgrading_tells_the_versions_and_is_repeatable(
    sqlite_url: str, empty_postgresql_url: str
) -> None:
    """From nothing to the newest version, and then nothing more to do."""
    for url in (sqlite_url, empty_postgresql_url):
        assert await upgrade(url) == (0, NEWEST)
        assert await upgrade(url) == (NEWEST, NEWEST)
        async with worker(url) as ledger:
            await take(ledger)


async def test_opening_names_the_ledger_and_what_it_holds(ledger_url: str) -> None:
    """Without a password; "new" is not the same as 0 of many."""
    await upgrade(ledger_url)
    for expected in ("new", "1 request", "2 requests"):
        ledger = open_ledger(ledger_url, worker_id=expected, holder_timeout=15)
        opened = await ledger.open()
        await take(ledger)
        await ledger.close()
        assert opened.holds == expected
        login = f"{urlsplit(ledger_url).netloc.rpartition('@')[0]}@"
        assert opened.name == ledger_url.replace(login, "")


async def test_what_a_large_ledger_holds_is_an_estimate(ledger_url: str) -> None:
    """To count a hundred million rows would hold up the start."""
    async with worker(ledger_url) as ledger:
        await take(ledger)
    columns = "status, attempt, token, fingerprint, session_id, user_id, operation, received_at, updated_at"
    columns += ", history"
    number = "printf('%012d', n)" if ledger_url.startswith("sqlite") else "lpad(n::text, 12, '0')"
    cast = "" if ledger_url.startswith("sqlite") else "::uuid"
    await sql(
        ledger_url,
        f"WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 12344) "
        f"INSERT INTO requests (request_id, {columns}) "
        f"SELECT ('00000000-0000-4000-8000-' || {number}){cast}, {columns} FROM requests, n",
    )
    if ledger_url.startswith("postgres"):
        await sql(ledger_url, "ANALYZE requests")
    ledger = open_ledger(ledger_url, worker_id="me", holder_timeout=15)
    opened = await ledger.open()
    await ledger.close()
    assert opened.holds == "about 12,345 requests"


# ---------------------------------------------------------------------------------------------- SQLite


async def test_sqlite_paths_may_be_relative_or_absolute_and_quoted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three slashes: from here; four: from the root. Odd characters are percent-quoted."""
    monkeypatch.chdir(tmp_path)
    assert (await upgrade("sqlite:///here.db"))[1] == (await upgrade(f"sqlite:///{tmp_path}/a%20b%3F.db"))[1]
    assert {"here.db", "a b?.db"} <= {path.name for path in tmp_path.iterdir()}


async def test_sqlite_commits_survive_a_power_cut(sqlite_url: str) -> None:
    """Write-ahead log, and every commit is flushed to the disk."""
    await upgrade(sqlite_url)
    with closing(sqlite_database.connect(path_of(sqlite_url), "rw")) as database:
        assert tuple(database.execute("PRAGMA journal_mode").fetchone()) == ("wal",)
        assert tuple(database.execute("PRAGMA synchronous").fetchone()) == (2,)


async def test_sqlite_refuses_a_missing_folder(tmp_path: Path) -> None:
    """The sentence names the folder."""
    assert f"{tmp_path}/nowhere does not exist" in await refusal(f"sqlite:///{tmp_path}/nowhere/ledger.db")


async def test_sqlite_refuses_a_file_that_is_none(tmp_path: Path) -> None:
    """Another program's file stays as it is."""
    path = tmp_path / "ledger.db"
    path.write_bytes(b"something else entirely" * 100)
    assert "is not a SQLite database" in await refusal(f"sqlite:///{path}")
    assert path.read_bytes() == b"something else entirely" * 100


async def test_sqlite_refuses_a_folder_as_its_file(tmp_path: Path) -> None:
    """What can never be opened is said so."""
    assert "is no regular file" in await refusal(f"sqlite:///{tmp_path}")


@contextmanager
def unprivileged() -> Iterator[Path]:
    """A folder, as seen by somebody other than root, who may write everything."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o777)
        user = os.geteuid()
        try:
            if user == 0:
                os.seteuid(65534)
            yield folder
        finally:
            os.seteuid(user)
            folder.chmod(0o777)


async def test_sqlite_refuses_a_file_that_it_may_only_read() -> None:
    """The sentence names the permission that is missing."""
    with unprivileged() as folder:
        url = f"sqlite:///{folder}/ledger.db"
        await upgrade(url)
        path_of(url).chmod(0o444)
        with pytest.raises(LedgerError, match=r"cannot be written; give the user with uid [0-9]+ write"):
            async with worker(url):
                pass


async def test_sqlite_refuses_a_folder_in_which_it_may_not_write() -> None:
    """The file cannot be made there."""
    with unprivileged() as folder:
        await upgrade(f"sqlite:///{folder}/another.db")
        (folder / "locked").mkdir(mode=0o555)
        with pytest.raises(
            LedgerError,
            match=r"cannot be opened; check that it is there and the user with uid [0-9]+ may",
        ):
            async with worker(f"sqlite:///{folder}/locked/ledger.db"):
                pass


@pytest.mark.parametrize("lock", ["BEGIN IMMEDIATE", "BEGIN EXCLUSIVE"])
async def test_sqlite_refuses_a_file_that_stays_locked(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch, lock: str
) -> None:
    """It waits a while for the other process, and then says so."""
    monkeypatch.setattr(sqlite_database, "BUSY_TIMEOUT", 0.05)
    monkeypatch.setattr(sqlite_database, "OPEN_TIMEOUT", 0.2)
    with closing(sqlite3.connect(path_of(sqlite_url), isolation_level=None)) as other:
        other.execute("PRAGMA journal_mode = WAL")
        other.execute(lock)
        with pytest.raises(LedgerError, match="is locked by another process"):
            async with worker(sqlite_url):
                pass


async def test_sqlite_waits_at_start_for_a_file_that_is_locked_for_a_moment(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process may be upgrading it."""
    monkeypatch.setattr(sqlite_database, "BUSY_TIMEOUT", 0.05)
    with closing(sqlite3.connect(path_of(sqlite_url), isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        opening = asyncio.create_task(upgrade(sqlite_url))
        done, _ = await asyncio.wait({opening}, timeout=0.3)
        assert not done
        other.execute("ROLLBACK")
    assert await opening == (0, NEWEST)


async def test_a_newer_schema_is_left_alone(ledger_url: str) -> None:
    """An old release after an upgrade: it says which version it knows."""
    await upgrade(ledger_url)
    await sql(ledger_url, f"UPDATE schema_version SET version = {NEWEST + 1} WHERE version = {NEWEST}")
    assert f"has version {NEWEST + 1}, newer than" in await refusal(ledger_url)
    with pytest.raises(LedgerError, match="newer than"):
        await upgrade(ledger_url)


async def test_four_processes_may_open_one_new_file_at_once(sqlite_url: str) -> None:
    """One upgrades, all get in, and each claims its own request."""
    program = (
        "import asyncio, sys\n"
        "from tests.support.ledger import take, worker\n"
        "async def main():\n"
        "    async with worker(sys.argv[1]) as ledger:\n"
        "        await take(ledger)\n"
        "sys.stdin.readline()\n"
        "asyncio.run(main())\n"
    )
    processes = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-c", program, sqlite_url, stdin=asyncio.subprocess.PIPE
        )
        for _ in range(4)
    ]
    results = await asyncio.gather(*(process.communicate(b"go\n") for process in processes))
    assert len(results) == 4
    assert [process.returncode for process in processes] == [0] * 4
    assert await sql(sqlite_url, "SELECT count(*) FROM requests") == [(4,)]
    assert await sql(sqlite_url, "SELECT count(*) FROM schema_version") == [(NEWEST,)]


# ------------------------------------------------------------------------------------------ PostgreSQL


async def test_postgresql_says_what_to_run_when_its_schema_is_missing(empty_postgresql_url: str) -> None:
    """Nothing is created by just opening; ``migrate`` does it."""
    assert "run `session-worker ledger upgrade` (or start with --migrate)" in await refusal(
        empty_postgresql_url
    )
    ledger = open_ledger(empty_postgresql_url, worker_id="me", holder_timeout=15, migrate=True)
    await ledger.open()
    await ledger.close()


async def test_postgresql_is_upgraded_once_by_many_at_the_same_time(empty_postgresql_url: str) -> None:
    """An advisory lock lets one through; the others find it done."""
    versions = await asyncio.gather(*(upgrade(empty_postgresql_url) for _ in range(4)))
    assert sorted(versions) == [(0, NEWEST), *[(NEWEST, NEWEST)] * 3]


async def test_postgresql_errors_are_sentences_without_the_password(
    postgresql: PostgreSQL, postgresql_url: str
) -> None:
    """Refused, unknown host, no such database, malformed URL: each says what to correct."""
    port = urlsplit(postgresql_url).port
    login = f"postgresql://postgres:{PASSWORD}@"
    assert "cannot be reached" in await refusal(f"{login}127.0.0.1:1/ledger")
    assert "cannot be found" in await refusal(f"{login}nowhere.invalid/ledger")
    missing = postgresql_url.rpartition("/")[0] + "/missing"
    assert "has no such database" in (said := await refusal(missing))
    assert postgresql.password not in said
    assert "refuses the user" in await refusal(f"{login}127.0.0.1:{port}/postgres")
    assert "refuses the user" in await refusal(f"postgresql://nobody:{PASSWORD}@127.0.0.1:{port}/postgres")
    assert "write host:port" in await refusal(f"{login}127.0.0.1:port/ledger")
    assert "the port must be 1 to 65535" in await refusal(f"{login}127.0.0.1:99999/ledger")
    assert "write host:port" in await refusal(f"{login}[::1/ledger")
    assert "percent-encoded" in await refusal(f"postgresql://postgres:{PASSWORD}@x@127.0.0.1:{port}/ledger")


async def test_a_socket_is_named_as_such(tmp_path: Path) -> None:
    """Not as "localhost", where nobody would find anything wrong."""
    said = await refusal(f"postgresql://ada@/ledger?host={tmp_path}&port=6000")
    assert f"at socket {tmp_path}/.s.PGSQL.6000, database ledger cannot be reached" in said


async def test_settings_of_the_server_in_the_url_count_or_are_refused(postgresql_url: str) -> None:
    """None is ignored: what the worker must set itself is said to be so."""
    async with worker(f"{postgresql_url}?application_name=ours&lock_timeout=7s&connect_timeout=3"):
        rows = await sql(
            postgresql_url, "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'ours'"
        )
        assert rows[0][0] > 0
    connection = await connect(f"{postgresql_url}?lock_timeout=7s")
    try:
        assert await connection.fetchval("SHOW lock_timeout") == "7s"
    finally:
        await hang_up(connection)
    assert "the worker sets timezone itself; leave it out" in await refusal(f"{postgresql_url}?timezone=CET")
    assert "no_such_setting" in await refusal(f"{postgresql_url}?no_such_setting=1")


@pytest.mark.parametrize("error", [KeyError("getpwuid(): uid not found: 4711"), OSError("No username set")])
async def test_a_user_id_without_a_name_is_said_when_the_url_names_no_user(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a container that runs under any number; what Python raises depends on its version."""

    def nameless() -> str:
        raise error

    monkeypatch.setattr(getpass, "getuser", nameless)
    monkeypatch.delenv("PGUSER", raising=False)
    said = await refusal("postgresql://127.0.0.1:1/ledger")
    assert f"user id {os.getuid()} has no name on this machine; write postgresql://user@host" in said
    assert "cannot be reached" in await refusal("postgresql://ada@127.0.0.1:1/ledger")


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"PGPORT": "https"}, "invalid literal for int() with base 10: 'https'; the environment sets PGPORT"),
        ({"PGSSLMODE": "maybe"}, "`sslmode` parameter must be one of"),
        ({"PGSSLMODE": "maybe"}, "the environment sets PGSSLMODE"),
        ({"PGSSLMODE": "verify-full", "PGSSLROOTCERT": "/nowhere.pem"}, "sslrootcert /nowhere.pem (No such"),
        ({"PGTARGETSESSIONATTRS": "best"}, "target_session_attrs is expected to be one of"),
        ({"PGUSER": "ad\udcff"}, "variable PGUSER is not UTF-8"),
        ({"PGPASSFILE": "{folder}/pgpass"}, "UnicodeDecodeError"),
        ({"HOME": "/" + "x" * 300}, "or set HOME to another folder than /xxx"),
    ],
)
async def test_what_postgresqls_variables_and_files_add_is_told_as_theirs(
    variables: dict[str, str], said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The driver reads them as well as the URL, in which there is nothing to correct then."""
    (tmp_path / "pgpass").write_bytes(b"127.0.0.1:*:*:*:\xff\n")
    (tmp_path / "pgpass").chmod(0o600)
    for name, value in variables.items():
        monkeypatch.setenv(name, value.replace("{folder}", str(tmp_path)))
    user = "" if "PGUSER" in variables else "ada@"
    port = "" if "PGPORT" in variables else ":1"
    assert said in await refusal(f"postgresql://{user}127.0.0.1{port}/ledger")


def test_a_connection_that_ended_between_two_statements_is_told_in_words() -> None:
    """The driver speaks of its states then."""
    error = asyncpg.InternalClientError("cannot switch to state 12; another operation (2) is in progress")
    said = str(diagnose(error, "postgresql://ada@db/ledger"))
    assert "ended the connection; it may be restarting" in said
    assert "state 12" not in said
    assert "without a word" in str(diagnose(asyncpg.InterfaceError(""), "postgresql://ada@db/ledger"))


async def test_postgresql_without_permission_is_a_sentence(
    postgresql: PostgreSQL, postgresql_url: str
) -> None:
    """A login that may connect and nothing else."""
    database = urlsplit(postgresql_url).path[1:]
    postgresql.execute(f"CREATE ROLE {database} LOGIN PASSWORD '{postgresql.password}'")
    try:
        url = postgresql_url.replace("postgres:", f"{database}:")
        said = await refusal(url)
        assert f"does not permit it to user {database} (permission denied for table schema_version)" in said
    finally:
        postgresql.execute(f"DROP ROLE {database}")


async def test_postgresql_leaves_no_connection_behind(postgresql_url: str) -> None:
    """Four connections while it is open (three lines and the register), none after."""
    count = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'session-worker'"
    count += " AND datname = current_database()"
    async with worker(postgresql_url) as ledger:
        claim = await take(ledger)
        await ledger.note_parked(claim.request_id, claim.token)
        assert 0 < (await sql(postgresql_url, count))[0][0] <= 4
    await becomes(postgresql_url, count, [(0,)])
