"""`topology`, `ledger`, `schema`, `--version`, `--help`: before a worker runs."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import pika
import pytest

from session_contracts import GET_SESSION, CreateSessionRequest, CreateSessionResponse, Names, asyncapi
from session_worker.ledger.sqlite.database import path_of
from tests.acceptance.conftest import environment
from tests.support.worker_process import WorkerProcess

if TYPE_CHECKING:
    from tests.acceptance.conftest import Cli


def test_topology_is_missing_then_applied_then_right(cli: Cli, amqp_url: str) -> None:
    """Applying twice changes nothing."""
    missing = cli("topology", "check", amqp_url=amqp_url)
    applied = [cli("topology", "apply", amqp_url=amqp_url) for _ in range(2)]
    right = cli("topology", "check", amqp_url=amqp_url)

    assert missing.code == 1
    assert missing.out.startswith(
        "exchange, queues: none of the 24 exist; run `session-worker topology apply`"
    )
    assert len(missing.out.splitlines()) == 1
    assert [each.code for each in applied] == [0, 0]
    assert right.code == 0


def test_topology_check_names_each_missing_queue_and_says_once_what_to_do(cli: Cli, amqp_url: str) -> None:
    cli("topology", "apply", amqp_url=amqp_url)
    with pika.BlockingConnection(pika.URLParameters(amqp_url)) as connection:
        for queue in ("session.create.dead", "session.replies"):
            connection.channel().queue_delete(queue)

    ran = cli("topology", "check", amqp_url=amqp_url)

    first, second = ran.out.splitlines()
    assert ran.code == 1
    assert first.startswith("queue session.create.dead: missing; run `session-worker topology apply`")
    assert second == "queue session.replies: missing; do the same as for queue session.create.dead"


def test_topology_check_names_the_queue_the_argument_and_the_way_out(cli: Cli, amqp_url: str) -> None:
    """A retry queue with another delay: one sentence, about this queue alone."""
    cli("topology", "apply", amqp_url=amqp_url)
    with pika.BlockingConnection(pika.URLParameters(amqp_url)) as connection:
        channel = connection.channel()
        channel.queue_delete("session.create.retry.5s")
        channel.queue_declare(
            "session.create.retry.5s",
            durable=True,
            arguments={"x-queue-type": "quorum", "x-message-ttl": 6000},
        )

    ran = cli("topology", "check", amqp_url=amqp_url)

    (difference,) = ran.out.splitlines()
    assert ran.code == 1
    assert difference.startswith("queue session.create.retry.5s: exists with other arguments")
    assert "'x-" in difference
    assert "delete it and run `session-worker topology apply`" in difference


def test_ledger_upgrade_creates_the_schema_once(cli: Cli, sqlite_url: str, empty_postgresql_url: str) -> None:
    """Of both kinds of ledger; before it, PostgreSQL says what to run."""
    before = cli("requests", ledger_url=empty_postgresql_url)
    assert before.code == 1
    assert "session-worker ledger upgrade" in before.err

    for url in (sqlite_url, empty_postgresql_url):
        assert "from version 0 to" in cli("ledger", "upgrade", ledger_url=url).out
        assert "already" in cli("ledger", "upgrade", ledger_url=url).out
        assert cli("requests", "--json", ledger_url=url).documents == []


def test_ledger_upgrade_says_what_becomes_of_workers_that_run(cli: Cli, sqlite_url: str) -> None:
    made_before = Path(__file__).parents[1] / "ledger" / "version_1" / "sqlite.sql"
    with closing(sqlite3.connect(path_of(sqlite_url))) as database:
        database.executescript(made_before.read_text())
    upgraded = cli("ledger", "upgrade", ledger_url=sqlite_url)
    assert "from version 1 to" in upgraded.out
    assert "Workers of the release before that are running go on" in upgraded.out
    assert "Workers" not in cli("ledger", "upgrade", ledger_url=sqlite_url).out


def test_workers_in_two_folders_have_one_ledger_and_say_which(
    cli: Cli, amqp_url: str, tmp_path: Path
) -> None:
    """And commands in a third one look into the same, when nobody named any."""
    folders = [tmp_path / name for name in ("one", "two")]
    held = []
    for folder in folders:
        folder.mkdir()
        with closing(WorkerProcess(amqp_url=amqp_url, folder=folder)) as worker:
            up = worker.wait_up()
            assert cli("send", "--user", "ada@example.com", amqp_url=amqp_url).code == 0
        held.append((up["ledger"], up["holds"]))

    ledger = f"sqlite:///{os.environ['XDG_STATE_HOME']}/session-worker/ledger.db"
    assert held == [(ledger, "new"), (ledger, "1 request")]
    assert len(cli("requests", "--json").documents) == 2
    assert [path for folder in folders for path in folder.iterdir()] == []


def test_a_ledger_of_an_earlier_release_in_the_folder_is_not_left_behind(cli: Cli, tmp_path: Path) -> None:
    """Each command names it, and the setting to write; the doctor among its findings."""
    (tmp_path / "session-worker.db").touch()

    for command in ("run", "requests", "top", "doctor", "ledger upgrade"):
        ran = cli(*command.split())
        assert ran.code == 2
        assert (
            f"SESSION_WORKER_LEDGER_URL=sqlite:///{tmp_path}/session-worker.db to go on with"
            in ran.out + ran.err
        )
    assert cli("schema", "request").code == 0


@pytest.mark.parametrize("model", [CreateSessionRequest, CreateSessionResponse])
def test_schema_prints_the_models_own(
    cli: Cli, model: type[CreateSessionRequest | CreateSessionResponse]
) -> None:
    name = "request" if model is CreateSessionRequest else "response"

    assert json.loads(cli("schema", name).out) == model.model_json_schema()


def test_schema_prints_those_of_another_operation(cli: Cli) -> None:
    printed = cli("schema", "response", "--operation", "get_session").out
    assert json.loads(printed) == asyncapi.schema(GET_SESSION, "response")
    unknown = cli("schema", "request", "--operation", "extend_session")
    assert (unknown.code, "create_session, get_session" in unknown.err) == (2, True)


def test_schema_prints_an_asyncapi_document_of_the_prefix(cli: Cli) -> None:
    assert json.loads(cli("schema", "asyncapi", "--prefix", "shop").out) == asyncapi.document(Names("shop"))


def test_help_is_quick_because_it_imports_nothing_heavy(cli: Cli) -> None:
    """Seconds depend on the machine; what is imported does not."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "session_worker.cli", "--help"],
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}

    assert "typer" in imported
    assert imported.isdisjoint(
        {"pydantic", "aiormq", "asyncpg", "rich.console", "structlog", "session_contracts"}
    )
    assert cli("--version").out == f"session-worker {version('session-worker')}\n"
