"""`session-worker doctor` names the fault and the fix in set-ups that are broken, and changes nothing."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import shutil
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import asynccontextmanager, closing
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from uuid import uuid4

import pika
import pytest

from session_contracts import amqp
from session_worker.broker import connection
from session_worker.broker.connection import Connection
from session_worker.ledger import upgrade
from session_worker.ledger.postgresql.schema import GRANTS
from session_worker.operators.doctor import Result, State, broker, examine, local
from session_worker.operators.operations import known, topology
from session_worker.runtime import ops
from session_worker.runtime.health import Board
from session_worker.sandbox.workspace import free_port
from session_worker.settings import load
from tests.support.lab import HANDLER, ROOT, Lab, open_lab, request
from tests.support.ledger import sql
from tests.support.worker_process import PROGRAM

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from tests.support.external_rabbitmq import ExternalRabbitMQ
    from tests.support.servers import PostgreSQL, RabbitMQ

SECRET = "tr0ub4dor"
WORK, SLOW, DEAD = "session.create", "session.create.undelivered", "session.create.dead"


@pytest.fixture(scope="module")
def sound(rabbitmq: RabbitMQ | ExternalRabbitMQ, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A lab in which all is well, with a running worker; the tests of this module leave it as it is."""
    folder = tmp_path_factory.mktemp("sound")
    with open_lab(rabbitmq, f"sqlite:///{folder / 'ledger.db'}", folder) as lab:
        lab.worker(**given(lab))
        yield lab


@pytest.fixture
def declared(lab: Lab) -> Lab:
    """A lab with exchange, queues and an empty ledger, and without a worker."""

    async def declare() -> None:
        async with connected_to(lab.url) as connection:
            await topology("session", known(load(**given(lab)))).apply(connection)
        await upgrade(lab.ledger_url)

    asyncio.run(declare())
    return lab


@asynccontextmanager
async def connected_to(url: str) -> AsyncIterator[Connection]:
    connection = await Connection.open([url], "test")
    try:
        yield connection
    finally:
        await connection.close()


def given(lab: Lab, **settings: object) -> dict[str, Any]:
    return {
        "amqp_url": lab.url,
        "ledger_url": lab.ledger_url,
        "handler": HANDLER,
        "retry_delays": "1",
        "holder_timeout": 15,
    } | settings


def ask(lab: Lab, clock: Callable[[], float] = time.time, **settings: object) -> list[Result]:
    """All results; whatever is not in order has a fix, and no secret is told."""
    results = asyncio.run(examine(load(**given(lab, **settings)), clock))
    assert all(result.fix for result in results if result.state in (State.WARNING, State.FAILED)), results
    assert SECRET not in repr(results)
    return results


def not_in_order(results: list[Result]) -> dict[str, Result]:
    """By name, what failed and what there are warnings of."""
    return {result.name: result for result in results if result.state in (State.WARNING, State.FAILED)}


def fault(results: list[Result], name: str, state: State = State.FAILED) -> Result:
    """The only thing that is not in order; nobody working here does not count."""
    found = not_in_order(results)
    found.pop("workers" if name != "workers" else "", None)
    assert list(found) == [name], found
    assert found[name].state is state
    return found[name]


def skipped(results: list[Result]) -> set[str]:
    return {result.name for result in results if result.state is State.SKIPPED}


def command(lab: Lab, *arguments: str, **settings: object) -> subprocess.CompletedProcess[str]:
    """`session-worker doctor` as a process."""
    variables = {f"SESSION_WORKER_{k.upper()}": str(v) for k, v in given(lab, **settings).items()}
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("SESSION_WORKER_")}
    done = subprocess.run(
        [PROGRAM, "doctor", *arguments],
        env=inherited | variables | {"PYTHONPATH": str(ROOT)},
        cwd=lab.folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "Traceback" not in done.stdout + done.stderr
    return done


def add_user(lab: Lab, configure: str, write: str, read: str) -> str:
    return lab.broker.add_user(f"user-{uuid4().hex[:8]}", SECRET, lab.vhost, configure, write, read)


# ------------------------------------------------------------------------------------- all is well


def test_where_all_is_well_every_check_says_so_and_nothing_is_left_behind(sound: Lab) -> None:
    """No queue, message, connection, file or registered worker more than before."""

    def state() -> tuple[object, ...]:
        depths = sound.broker.queue_depths(sound.vhost)
        return depths, sorted(sound.folder.iterdir()), sound.runs()

    before = state()
    done = command(sound, "--json")
    documents = [json.loads(line) for line in done.stdout.splitlines()]

    assert (done.returncode, done.stderr) == (0, "")
    assert {document["state"] for document in documents} == {"ok"}, documents
    assert all(list(document) == ["name", "state", "found", "fix"] for document in documents)
    assert f"queue {DEAD}" in {document["name"] for document in documents}
    assert (
        "1 registered; 1 consume"
        in {document["name"]: document["found"] for document in documents}["workers"]
    )
    assert state() == before


def test_looking_takes_no_message_and_writes_no_file(declared: Lab) -> None:
    """Without a worker, too: a request that waits was never delivered to anybody."""
    with declared.requester() as requester:
        requester.send(request(), reply_to=None)
        files = sorted(declared.folder.iterdir())
        assert "1 message waits" in {each.name: each.found for each in ask(declared)}[f"queue {WORK}"]
        assert sorted(declared.folder.iterdir()) == files
        method, _, _ = requester.channel.basic_get(WORK)
        assert method is not None
        assert not method.redelivered


def test_a_worker_with_the_least_privileges_is_well(sound: Lab) -> None:
    """What it may not know is no fault."""
    url = add_user(sound, "^$", r"^amq\.default$", r"^session\.[a-z]+(\.undelivered)?$")
    results = ask(sound, amqp_url=url, declare=False)
    assert not_in_order(results) == {}
    assert "arguments were not compared" in {result.name: result.found for result in results}[f"queue {WORK}"]


def test_looking_creates_no_ledger_and_no_queue(lab: Lab) -> None:
    results = ask(lab)
    found = not_in_order(results)
    assert "missing" in found["exchange session"].found
    assert "topology apply" in str(found[f"queue {WORK}"].fix)
    assert "there is no ledger file" in found["ledger"].found
    assert "name the ledger that the workers use" in str(found["ledger"].fix)
    assert lab.broker.queue_depths(lab.vhost) == {}
    assert list(lab.folder.iterdir()) == []


# -------------------------------------------------------------------------------------- the broker


@pytest.mark.parametrize(
    ("wrong", "found", "fix"),
    [
        (
            "amqp://ada:{secret}@{place}/{vhost}",
            "refused the login of user ada",
            "check user and password",
        ),
        ("amqp://{login}@{place}/nowhere", "no vhost nowhere", "add_vhost"),
        ("amqp://guest:{secret}@127.0.0.1:{free}/", "cannot be reached", "start it, or correct amqp_url"),
        (
            "amqp://guest:{secret}@no-such-host.invalid/",
            "the host name is not known",
            "correct amqp_url",
        ),
        ("amqps://{login}@{place}/{vhost}", "does not speak TLS", "correct the port or the scheme"),
    ],
    ids=["password", "vhost", "down", "host", "TLS"],
)
def test_a_broker_that_lets_nobody_in_is_one_fault(sound: Lab, wrong: str, found: str, fix: str) -> None:
    """What needs the broker is skipped."""
    login, _, place = urlsplit(sound.url).netloc.rpartition("@")
    url = wrong.format(secret=SECRET, login=login, place=place, vhost=sound.vhost, free=free_port())
    results = ask(sound, amqp_url=url)
    broken = fault(results, "broker")
    assert found in broken.found
    assert fix in str(broken.fix)
    assert skipped(results) == {"version", "queues", "permissions", "alarms", "workers"}


def test_a_broker_that_swallows_everything_is_given_up(sound: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "CONNECT_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"amqp://127.0.0.1:{silent.getsockname()[1]}/"
        assert "did not answer within" in fault(ask(sound, amqp_url=url), "broker").found


def test_a_broker_that_falls_silent_is_given_up(sound: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker, "CHECK_SECONDS", 0)
    results = ask(sound)
    assert "did not answer" in fault(results, "queues").found
    assert skipped(results) == {"workers"}


def test_of_a_cluster_a_node_that_is_down_is_named_and_the_others_are_used(sound: Lab) -> None:
    port = free_port()
    results = ask(sound, amqp_url=f"amqp://127.0.0.1:{port}/,{sound.url}")
    assert f":{port} cannot be reached" in fault(results, "broker", State.WARNING).found
    assert skipped(results) == set()


def test_a_missing_queue_is_named(declared: Lab) -> None:
    declared.broker.delete_queue(declared.vhost, "session.create.retry.1s")
    broken = fault(ask(declared), "queue session.create.retry.1s")
    assert broken.found == "missing"
    assert "session-worker topology apply" in str(broken.fix)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (
            {"x-queue-type": "quorum", "x-delivery-limit": 3, "x-overflow": "reject-publish"},
            "x-delivery-limit",
        ),
        ({"x-queue-type": "classic"}, "inequivalent arg"),
    ],
    ids=["another limit", "classic"],
)
def test_a_queue_with_other_arguments_is_named(declared: Lab, arguments: dict[str, Any], named: str) -> None:
    declared.broker.delete_queue(declared.vhost, WORK)
    more = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": SLOW}
    more |= {"x-dead-letter-strategy": "at-least-once"} if arguments["x-queue-type"] == "quorum" else {}
    with pika.BlockingConnection(pika.URLParameters(declared.url)) as link:
        link.channel().queue_declare(WORK, durable=True, arguments=arguments | more)
    broken = fault(ask(declared), f"queue {WORK}")
    assert named in broken.found
    assert "delete it and run" in str(broken.fix)


def test_queues_without_a_worker_are_a_warning_and_the_exit_code_stays_0(declared: Lab) -> None:
    done = command(declared)
    (line,) = (line for line in done.stdout.splitlines() if not line.startswith("ok "))
    assert done.returncode == 0
    assert line.startswith("WARN  workers ")
    nobody = "nobody consumes session.create, session.get, session.list or session.close"
    assert f"{nobody}; fix: start one with `session-worker run`" in line
    counted, first = done.stderr.splitlines()[-2:]
    assert counted.startswith("1 warning, ")
    assert first == "First, workers: start one with `session-worker run`"


def test_a_vhost_without_queues_is_one_line_with_one_fix(lab: Lab) -> None:
    """The problems come first, and the last line says where to begin."""
    done = command(lab)
    words = [line.split()[0] for line in done.stdout.splitlines()]
    assert done.returncode == 1
    assert words == sorted(words, key=["FAIL", "skip", "ok"].index)
    assert done.stdout.count("topology apply") == 1
    assert "exchange, queues   none of the 16 exist; fix: run `session-worker topology apply`" in done.stdout
    counted, first = done.stderr.splitlines()[-2:]
    assert counted.startswith("2 failed, "), done.stdout
    assert first.startswith("First, ledger: name the ledger that the workers use")


@pytest.mark.parametrize(
    ("configure", "write", "read", "found"),
    [
        (".*", ".*", "^session$", f"no read permission on queue {WORK}"),
        (".*", "^session", ".*", "no write permission on exchange amq.default"),
        ("^$", ".*", ".*", "no configure permission"),
        (".*", r"^amq\.default$", ".*", f"no write permission on queue {WORK}"),
        (".*", ".*", r"^session\.", "no read permission on exchange session"),
    ],
    ids=["consume", "publish", "declare", "bind the queue", "bind the exchange"],
)
def test_a_missing_permission_is_named(sound: Lab, configure: str, write: str, read: str, found: str) -> None:
    broken = fault(ask(sound, amqp_url=add_user(sound, configure, write, read)), "permissions")
    assert found in broken.found
    assert "set_permissions" in str(broken.fix)


def test_an_alarm_is_a_fault(own_rabbitmq: RabbitMQ, sqlite_url: str, tmp_path: Path) -> None:
    """The broker says so only to those who publish."""
    with open_lab(own_rabbitmq, sqlite_url, tmp_path) as lab:
        own_rabbitmq.set_alarm(True)
        try:
            results = ask(lab)
        finally:
            own_rabbitmq.set_alarm(False)
        assert "rabbitmq-diagnostics alarms" in str(not_in_order(results)["alarms"].fix)
        assert "alarms" not in not_in_order(ask(lab))


# ------------------------------------------------------------------------------------ dead letters


def park(lab: Lab, age: timedelta) -> None:
    """Put a letter on the parking lot that failed so long ago."""
    headers = {amqp.ERROR_CODE: "handler_failed", amqp.FAILED_AT: (datetime.now(UTC) - age).isoformat()}
    with pika.BlockingConnection(pika.URLParameters(lab.url)) as link:
        channel = link.channel()
        channel.confirm_delivery()
        channel.basic_publish("", DEAD, b"{}", pika.BasicProperties(headers=headers, delivery_mode=2))


def test_letters_that_wait_and_that_the_ledger_may_have_forgotten_are_warned_of(declared: Lab) -> None:
    """The oldest one counts. It stays where it is."""
    park(declared, timedelta(days=31))
    park(declared, timedelta(days=1))
    results = not_in_order(ask(declared, retention="30d"))
    assert "2 dead letters wait" in results[f"queue {DEAD}"].found
    assert "dead groups" in str(results[f"queue {DEAD}"].fix)
    assert "31.0 d old" in results["retention"].found
    assert "--unknown" in str(results["retention"].fix)
    assert {result.state for result in results.values()} == {State.WARNING}
    assert "retention" not in not_in_order(ask(declared, retention="60d"))
    assert "retention" not in not_in_order(ask(declared))
    declared.holds(DEAD, 2)


# -------------------------------------------------------------------------------------- the ledger


def test_a_ledger_that_is_down_is_one_fault(sound: Lab) -> None:
    url = f"postgresql://ada:{SECRET}@127.0.0.1:{free_port()}/ledger"
    results = ask(sound, ledger_url=url)
    broken = fault(results, "ledger")
    assert "cannot be reached" in broken.found
    assert "check that the server runs" in str(broken.fix)
    assert skipped(results) == {"ledger size", "ledger durability", "ledger clock", "workers"}


def test_a_missing_or_newer_schema_is_named(
    sound: Lab, postgresql: PostgreSQL, empty_postgresql_url: str, postgresql_url: str
) -> None:
    broken = fault(ask(sound, ledger_url=empty_postgresql_url), "ledger")
    assert "is not there yet" in broken.found
    assert "session-worker ledger upgrade" in str(broken.fix)
    newer = "INSERT INTO schema_version (version) VALUES (999)"
    postgresql.execute(newer, postgresql_url.rpartition("/")[2])
    broken = fault(ask(sound, ledger_url=postgresql_url), "ledger")
    assert "version 999, newer" in broken.found
    assert "run the release" in str(broken.fix)


@pytest.mark.parametrize("lacking", ["UPDATE ON requests", "INSERT ON sessions", "DELETE ON workers"])
def test_a_missing_grant_is_named_as_the_statement_to_run(
    sound: Lab, postgresql: PostgreSQL, postgresql_url: str, lacking: str
) -> None:
    role, database = f"role_{uuid4().hex[:8]}", postgresql_url.rpartition("/")[2]
    grants = [
        f"GRANT {privilege} ON {table} TO {role}" for table, all_ in GRANTS.items() for privilege in all_
    ]
    statements = [
        f"CREATE ROLE {role} LOGIN PASSWORD '{postgresql.password}'",
        f"GRANT SELECT ON schema_version TO {role}",
        *grants,
    ]
    postgresql.execute("; ".join([*statements, f"REVOKE {lacking} FROM {role}"]), database)
    url = postgresql_url.replace("postgres:", f"{role}:")
    try:
        broken = not_in_order(ask(sound, ledger_url=url))["ledger grants"]
        assert f"GRANT {lacking} TO {role}" in str(broken.fix)
        postgresql.execute(f"GRANT {lacking} TO {role}", database)
        assert "ledger grants" not in not_in_order(ask(sound, ledger_url=url))
    finally:
        postgresql.execute(f"DROP OWNED BY {role}; DROP ROLE {role}", database)


def test_a_ledger_that_may_lose_or_take_no_commits_or_is_not_the_workers_is_named(
    sound: Lab, postgresql: PostgreSQL, postgresql_url: str
) -> None:
    """The tests' PostgreSQL skips every fsync; the worker of this lab is registered in another ledger."""
    found = not_in_order(ask(sound, ledger_url=postgresql_url))
    assert {name: result.state for name, result in found.items()} == {
        "ledger durability": State.WARNING,
        "owner": State.FAILED,
        "workers": State.WARNING,
    }
    assert "fsync" in found["ledger durability"].found
    assert "fsync = on" in str(found["ledger durability"].fix)
    assert "none is registered in this ledger" in found["workers"].found
    database = postgresql_url.rpartition("/")[2]
    postgresql.execute(f'ALTER DATABASE "{database}" SET default_transaction_read_only = on')
    assert "name the primary" in str(not_in_order(ask(sound, ledger_url=postgresql_url))["ledger"].fix)


@pytest.mark.parametrize(("skew", "words"), [(-60, "60.0 s ahead"), (60, "60.0 s behind")])
def test_a_clock_that_differs_from_the_ledgers_is_a_warning(
    sound: Lab, postgresql_url: str, skew: int, words: str
) -> None:
    results = ask(sound, lambda: time.time() + skew, ledger_url=postgresql_url)
    clock = not_in_order(results)["ledger clock"]
    assert words in clock.found
    assert "NTP" in str(clock.fix)


def test_a_ledger_file_without_its_write_ahead_log_is_a_warning(declared: Lab) -> None:
    with closing(sqlite3.connect(declared.ledger_url.removeprefix("sqlite:///"))) as database:
        database.execute("PRAGMA journal_mode = DELETE")
    assert "write-ahead log" in fault(ask(declared), "ledger durability", State.WARNING).found


def test_a_ledger_file_that_this_user_may_not_write_is_named(
    sound: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write everything
    broken = fault(ask(sound), "ledger")
    assert "cannot be written" in broken.found


def rows(url: str) -> list[tuple[Any, ...]]:
    counts = ", ".join(f"(SELECT count(*) FROM {table})" for table in ("requests", "sessions", "workers"))
    return asyncio.run(sql(url, f"SELECT {counts}"))


def test_a_ledger_file_that_cannot_grow_is_a_fault(declared: Lab) -> None:
    """It was read without trouble, and may be written, and the disk has no room: so it is tried."""
    path = Path(declared.ledger_url.removeprefix("sqlite:///"))
    before, files = rows(declared.ledger_url), sorted(declared.folder.iterdir())
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 100_000, limits[1]))
    try:
        broken = fault(ask(declared), "ledger")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert str(path) in broken.found
    assert "room" in str(broken.fix)
    assert "ledger" not in not_in_order(ask(declared))
    assert (rows(declared.ledger_url), sorted(declared.folder.iterdir())) == (before, files)
    assert (
        asyncio.run(sql(declared.ledger_url, "SELECT 1 FROM sqlite_master WHERE name LIKE '%probe%'")) == []
    )


@pytest.mark.parametrize("table", ["requests", "sessions", "workers"])
def test_a_postgresql_that_takes_no_rows_is_a_fault(
    declared: Lab, postgresql: PostgreSQL, postgresql_url: str, table: str
) -> None:
    """It answers, and the grants are there: so each table is tried, and nothing stays in it."""
    database = postgresql_url.rpartition("/")[2]
    postgresql.execute(
        """
        CREATE FUNCTION no_room() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN RAISE EXCEPTION 'could not extend file' USING ERRCODE = 'disk_full'; END $$
        """,
        database,
    )
    postgresql.execute(
        f"CREATE TRIGGER no_room BEFORE INSERT ON {table} EXECUTE FUNCTION no_room()", database
    )
    assert "could not extend file" in not_in_order(ask(declared, ledger_url=postgresql_url))["ledger"].found
    postgresql.execute(f"DROP TRIGGER no_room ON {table}", database)
    assert "ledger" not in not_in_order(ask(declared, ledger_url=postgresql_url))
    assert rows(postgresql_url) == [(0, 0, 0)]


def test_a_ledger_that_everybody_may_read_is_a_warning(declared: Lab) -> None:
    path = Path(declared.ledger_url.removeprefix("sqlite:///"))
    closed = [folder for folder in path.parents if not folder.stat().st_mode & 0o001]
    assert "ledger privacy" not in not_in_order(ask(declared))
    path.chmod(0o644)
    if closed:
        assert "ledger privacy" not in not_in_order(ask(declared)), f"nobody gets past {closed[0]}"
    with TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        copy = Path(shutil.copy(path, name))
        told = fault(ask(declared, ledger_url=f"sqlite:///{copy}"), "ledger privacy", State.WARNING)
        assert f"chmod o= {copy}" in str(told.fix)
        copy.chmod(0o640)
        assert "ledger privacy" not in not_in_order(ask(declared, ledger_url=f"sqlite:///{copy}"))


# ------------------------------------------------------------------------- settings, handler, port


def test_invalid_settings_are_results_of_their_own_and_end_with_2(sound: Lab) -> None:
    done = command(sound, "--json", max_attempts=0, prefix="!", amqp_url=f"http://guest:{SECRET}@localhost/")
    documents = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 2
    assert [document["state"] for document in documents] == ["failed"] * 3
    assert any("SESSION_WORKER_MAX_ATTEMPTS" in document["found"] for document in documents)
    assert SECRET not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("code", "found"),
    [
        (None, "cannot be imported (ModuleNotFoundError"),
        ("x = 1\nimport nowhere_at_all", "No module named 'nowhere_at_all', in broken_handler.py:2)"),
        ("def f(:", "(broken_handler.py, line 1)"),
        ("def deeper():\n    1 / 0\n\ndeeper()", "division by zero, in broken_handler.py:2)"),
        ("def handle(request): ...", "must take two arguments"),
        ("print('{}'); import os; os._exit(3)", "ends the process (3)"),
    ],
    ids=["missing", "missing import", "syntax", "raises", "one argument", "exits"],
)
def test_a_handler_that_does_not_load_is_named_with_its_line(
    sound: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str | None, found: str
) -> None:
    """Whatever it does when it is imported happens to another process."""
    monkeypatch.chdir(tmp_path)
    if code is not None:
        (tmp_path / "broken_handler.py").write_text(code)
    broken = fault(ask(sound, handler="broken_handler:handle"), "handler")
    assert found in broken.found
    assert broken.fix


APP = """
from pydantic import BaseModel

from session_contracts import Operation
from session_worker.operations.app import App


class Minutes(BaseModel):
    minutes: int


app = App()


@app.operation(Operation("extend_session", Minutes, Minutes), retry_delays=[2], timeout=60)
async def extend(request, context) -> Minutes: ...
"""


def test_what_an_app_needs_is_looked_for(sound: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own limits count, and it is loaded in another process alone."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "doctors_shop.py").write_text(
        APP.replace("request, context", "request: object, context: object")
    )
    results = {each.name: each for each in ask(sound, app="doctors_shop:app", handler=None)}
    assert results["app"].found.endswith("close_session, extend_session")
    assert "held for 80 s at the most" in results["consumer timeout"].found
    missing = {name for name, each in results.items() if each.found == "missing"}
    assert missing == {
        f"queue session.extend_session{end}" for end in ("", ".dead", ".undelivered", ".retry.2s")
    }
    assert "doctors_shop" not in sys.modules


def test_of_an_app_that_does_not_load_the_built_in_operations_are_looked_for(
    sound: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "doctors_shop.py").write_text(APP)
    broken = fault(ask(sound, app="doctors_shop:app", handler=None), "app")
    assert "extend of extend_session: request has no annotation" in broken.found


def test_files_in_the_folder_do_not_get_in_the_way_of_a_handler(
    sound: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor what it prints when it is imported."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "json.py").write_text("1 / 0")
    talking = "print('hello', flush=True)\nasync def handle(request, context): ..."
    (tmp_path / "talking_handler.py").write_text(talking)
    assert not_in_order(ask(sound, handler="talking_handler:handle")) == {}


def test_a_handler_that_hangs_when_it_is_imported_is_given_up(
    sound: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(local, "LOAD_SECONDS", 0.5)
    (tmp_path / "hanging_handler.py").write_text("import threading; threading.Event().wait()")
    assert "takes more than 0.5 s" in fault(ask(sound, handler="hanging_handler:handle"), "handler").found


def test_an_ops_port_that_another_program_has_is_a_fault(sound: Lab) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as other:
        thread = threading.Thread(target=other.serve_forever, args=[0.02])
        thread.start()
        try:
            broken = fault(ask(sound, ops_port=other.server_port), "ops port")
        finally:
            other.shutdown()
            thread.join()
    assert "taken by another program" in broken.found
    assert "choose another one" in str(broken.fix)


def test_a_worker_that_is_not_ready_says_so_on_its_ops_port(sound: Lab) -> None:
    """A port that nobody has is none to complain about."""
    port = free_port()
    with ops.serving("127.0.0.1", port, Board(1)):
        assert (
            "not ready: loop: starting" in fault(ask(sound, ops_port=port), "ops port", State.WARNING).found
        )
    assert not_in_order(ask(sound, ops_port=port)) == {}


def test_queues_of_another_ledger_are_a_fault_that_names_it(sound: Lab, tmp_path: Path) -> None:
    assert {result.name: result for result in ask(sound)}["owner"].state is State.OK
    other = f"sqlite:///{tmp_path}/other.db"
    asyncio.run(upgrade(other))

    broken = fault(ask(sound, ledger_url=other), "owner")

    assert f"belongs to another ledger, {sound.ledger_url} (made 20" in broken.found
    assert "topology apply --adopt-ledger" in str(broken.fix)
