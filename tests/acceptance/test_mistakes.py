"""Mistakes get a sentence and what to do: never a traceback (the fixture `cli` looks), never a secret."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from tests.acceptance.conftest import Cli
    from tests.support.external_rabbitmq import ExternalRabbitMQ
    from tests.support.servers import RabbitMQ

SECRET = "tr0ub4dor"
NOBODY_THERE = f"amqp://guest:{SECRET}@127.0.0.1:1/"
COMMANDS = (("run",), ("topology", "check"), ("send", "--user", "ada"))


def with_password(url: str, password: str) -> str:
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return parts._replace(netloc=f"{parts.username}:{password}@{host}").geturl()


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_refused_login_is_a_sentence(
    cli: Cli, amqp_url: str, sqlite_url: str, command: tuple[str, ...]
) -> None:
    ran = cli(*command, amqp_url=with_password(amqp_url, SECRET), ledger_url=sqlite_url)

    assert ran.code == 1
    assert "login" in ran.err
    assert SECRET not in ran.err


@pytest.mark.parametrize("command", COMMANDS[:2], ids=" ".join)
def test_a_missing_vhost_is_named(
    cli: Cli, rabbitmq: RabbitMQ | ExternalRabbitMQ, sqlite_url: str, command: tuple[str, ...]
) -> None:
    ran = cli(*command, amqp_url=rabbitmq.vhost_url("nowhere"), ledger_url=sqlite_url)

    assert ran.code == 1
    assert "vhost" in ran.err
    assert "nowhere" in ran.err


@pytest.mark.parametrize(
    "command", [*COMMANDS[1:], ("demo", "--amqp-url", NOBODY_THERE)], ids=lambda words: words[0]
)
def test_a_broker_that_is_not_there_is_named(cli: Cli, command: tuple[str, ...]) -> None:
    ran = cli(*command, amqp_url=NOBODY_THERE)

    assert ran.code == 1
    assert "127.0.0.1:1" in ran.err
    assert "connection refused: nothing listens there" in ran.err
    assert "Errno" not in ran.err
    assert SECRET not in ran.err


def test_a_worker_waits_a_little_for_its_broker_and_then_says_so(cli: Cli, sqlite_url: str) -> None:
    ran = cli("run", amqp_url=NOBODY_THERE, ledger_url=sqlite_url)

    assert ran.code == 1
    while_it_waits, in_the_end = ran.err.splitlines()
    assert "no link to the broker" in while_it_waits
    assert in_the_end.startswith("session-worker: the broker at 127.0.0.1:1 cannot be reached")
    assert SECRET not in ran.err


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("sqlite:////proc/ledger.db", "/proc"),
        ("sqlite:////nowhere/at/all/ledger.db", "/nowhere/at/all"),
        (f"postgresql://ada:{SECRET}@127.0.0.1:1/ledger", "127.0.0.1"),
    ],
    ids=["unwritable", "no folder", "PostgreSQL down"],
)
def test_a_worker_whose_ledger_cannot_be_used_says_why(cli: Cli, url: str, words: str) -> None:
    ran = cli("run", ledger_url=url, amqp_url=NOBODY_THERE)

    assert ran.code == 1
    assert words in ran.err
    assert SECRET not in ran.err


def test_a_ledger_that_another_program_locks_is_a_sentence(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("BEGIN EXCLUSIVE")
        ran = cli("requests", ledger_url=f"sqlite:///{path}")

    assert ran.code == 1
    assert "locked" in ran.err
    assert str(path) in ran.err


def test_invalid_settings_are_named_by_flag_and_variable_and_never_quoted(cli: Cli) -> None:
    """One line for each; the value may be a secret in the wrong place."""
    ran = cli("run", "--concurrency", "0", prefix=f"!{SECRET}", retry_delays=SECRET)

    assert ran.code == 2
    assert len(ran.err.splitlines()) == 3
    assert "It is given by --concurrency." in ran.err
    assert "It is given by SESSION_WORKER_PREFIX." in ran.err
    assert "It is given by SESSION_WORKER_RETRY_DELAYS." in ran.err
    assert SECRET not in ran.err


@pytest.mark.parametrize("processes", [1, 2])
def test_a_setting_that_is_misspelt_is_said_once_at_the_start(cli: Cli, processes: int) -> None:
    """Also by a supervisor; it is no reason not to start, the handler is."""
    flags = ("--handler", "nowhere:handle", "--processes", processes)
    ran = cli("run", *flags, ledger_url="postgresql://127.0.0.1:1/ledger", concurency=3)

    (line,) = [json.loads(line) for line in ran.err.splitlines() if "unknown setting" in line]
    assert (line["level"], line["variable"]) == ("warning", "SESSION_WORKER_CONCURENCY")
    assert line["nearest"] == "SESSION_WORKER_CONCURRENCY"


def test_a_handler_that_is_not_there_is_a_sentence(cli: Cli, sqlite_url: str) -> None:
    ran = cli("run", "--handler", "nowhere:handle", ledger_url=sqlite_url)

    assert ran.code == 1
    assert "nowhere" in ran.err


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "x"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "0"),
        ("OTEL_PYTHON_EXPORTER_OTLP_HTTP_CREDENTIAL_PROVIDER", "nobody"),
    ],
)
def test_a_variable_of_opentelemetry_that_cannot_be_used_is_a_sentence(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, sqlite_url: str, name: str, value: str
) -> None:
    """Read when its libraries are imported, when they are set up, or when they load something."""
    monkeypatch.setenv(name, value)
    ran = cli("run", traces="on", ledger_url=sqlite_url, amqp_url=NOBODY_THERE)

    assert ran.code == 1
    assert ran.err.splitlines()[-1].startswith("session-worker: traces: ")
    assert cli("run", "--help", traces="on").code == 0
