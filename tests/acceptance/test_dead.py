"""`dead` as operators run it: its words, its documents, its exit codes."""

from __future__ import annotations

import re
from contextlib import closing
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from tests.acceptance.test_top import Terminal
from tests.support.requester import Requester
from tests.support.waiting import soon

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.acceptance.conftest import Cli
    from tests.support.servers import RabbitMQ
    from tests.support.worker_process import WorkerProcess

HANDLER = """
from pathlib import Path

from session_worker.requests.retry import PermanentError


async def handle(request, context):
    if not Path("mended").exists():
        raise PermanentError(f"no such quota: {request.user_id}")
"""


@pytest.fixture
def buggy(
    worker_process: Callable[..., WorkerProcess], amqp_url: str, sqlite_url: str, tmp_path: Path
) -> WorkerProcess:
    """A worker whose handler fails until there is a file `mended`."""
    (tmp_path / "quotas.py").write_text(HANDLER)
    return worker_process(amqp_url=amqp_url, ledger_url=sqlite_url, handler="quotas:handle")


@pytest.mark.usefixtures("buggy")
def test_letters_are_seen_grouped_shown_tried_redriven_and_gone(
    cli: Cli, amqp_url: str, sqlite_url: str, tmp_path: Path
) -> None:
    """The way through an incident, on the command line alone."""
    place = {"amqp_url": amqp_url, "ledger_url": sqlite_url}
    sent = cli("send", "--user", "ada@example.com", "--count", 3, "--json", **place)
    assert [each["metadata"]["error_code"] for each in sent.documents] == ["handler_failed"] * 3
    ids = {each["request_id"] for each in sent.documents}
    soon(lambda: len(cli("dead", "list", "--json", **place).documents) == 3)

    (group,) = cli("dead", "groups", "--json", **place).documents
    assert (group["count"], group["error_code"], group["exception_type"]) == (
        *(3, "handler_failed"),
        "PermanentError",
    )
    assert group["example"] in ids
    assert "no such quota" in cli("dead", "groups", **place).out
    assert all(id_ in cli("dead", "list", **place).out for id_ in ids)

    shown = cli("dead", "show", group["example"], **place)
    assert shown.code == 0
    assert "re-opens the request" in shown.out
    assert re.search(r"failed +1 +.*PermanentError: no such quota", shown.out)
    (document,) = cli("dead", "show", group["example"], "--json", **place).documents
    assert document["entry"]["status"] == "failed"

    foreseen = cli("dead", "redrive", "--dry-run", "--json", **place).documents[0]
    assert (foreseen["reopened"], foreseen["dry_run"]) == (3, True)
    assert cli("dead", "purge", "--dry-run", **place).out == "3 letters would be dropped.\n"

    (tmp_path / "mended").touch()
    tried = cli("dead", "redrive", "--request-id", group["example"], **place)
    assert (tried.code, tried.out.split(":")[0]) == (0, "1 letter re-opened and sent again")
    soon(lambda: cli("status", group["example"], "--json", **place).documents[0]["status"] == "completed")
    assert cli("dead", "redrive", "--yes", "--json", **place).documents[0]["reopened"] == 2
    soon(lambda: len(cli("requests", "--status", "completed", "--json", **place).documents) == 3)
    assert "No such letters" in cli("dead", "list", **place).err


def test_dropping_letters_wants_a_yes(cli: Cli, amqp_url: str) -> None:
    """Where nobody can be asked it must be given; then only what is meant is dropped."""
    cli("topology", "apply", amqp_url=amqp_url)
    with Requester(amqp_url) as requester:
        for _ in range(2):
            requester.send(b"a letter", routing_key="session.create.dead")

    refused = cli("dead", "purge", amqp_url=amqp_url)
    assert (refused.code, "--yes" in refused.err) == (2, True)
    others = cli("dead", "purge", "--code", "unreadable", "--yes", "--json", amqp_url=amqp_url)
    assert others.documents == [{"matched": 0, "dropped": 0}]
    assert cli("dead", "purge", "--limit", 1, "--yes", amqp_url=amqp_url).out == "1 letter dropped.\n"
    assert len(cli("dead", "list", "--json", amqp_url=amqp_url).documents) == 1


def test_who_names_no_app_is_told_whose_letters_were_looked_at(cli: Cli, amqp_url: str) -> None:
    """Else letters of an app's operations would seem not to be there."""
    cli("topology", "apply", amqp_url=amqp_url)
    for command in (["list"], ["groups"], ["show", str(uuid4())]):
        assert "--app or --operation names others" in cli("dead", *command, amqp_url=amqp_url).err
        of_one = cli("dead", *command, "--operation", "create_session", amqp_url=amqp_url)
        assert "--app" not in of_one.err


def test_a_redrive_of_all_letters_wants_a_yes(cli: Cli, amqp_url: str, sqlite_url: str) -> None:
    """Where nobody can be asked it must be given, unless a filter says which ones are meant."""
    place = {"amqp_url": amqp_url, "ledger_url": sqlite_url}
    cli("topology", "apply", amqp_url=amqp_url)
    cli("ledger", "upgrade", ledger_url=sqlite_url)

    for option in ("", "--limit=1", "--unknown"):
        refused = cli("dead", "redrive", *filter(None, [option]), **place)
        assert (refused.code, "--yes" in refused.err) == (2, True)
    for option in ("--yes", "--dry-run", "--code=internal_error", "--since=1h"):
        assert cli("dead", "redrive", option, **place).code == 0


@pytest.mark.parametrize(
    ("command", "key", "code", "left"),
    [
        ("redrive", "\n", 1, 2),
        ("redrive", "n\n", 1, 2),
        ("redrive", "\x03", 130, 2),
        ("redrive", "\x04", 1, 2),
        ("redrive", "y\n", 0, 0),
        ("purge", "\n", 1, 2),
        ("purge", "y\n", 0, 0),
    ],
)
def test_at_a_terminal_it_asks(
    cli: Cli, amqp_url: str, sqlite_url: str, tmp_path: Path, command: str, key: str, code: int, left: int
) -> None:
    """Only yes is one; Ctrl-C is an interrupt there as well."""
    cli("topology", "apply", amqp_url=amqp_url)
    cli("ledger", "upgrade", ledger_url=sqlite_url)
    with Requester(amqp_url) as requester:
        for _ in range(2):
            requester.send(b"a letter", routing_key="session.create.dead")

    with closing(
        Terminal("dead", command, folder=tmp_path, amqp_url=amqp_url, ledger_url=sqlite_url)
    ) as terminal:
        soon(lambda: "2 letters" in terminal.text and "[y/N]" in terminal.text, 30)
        terminal.press(key)
        soon(lambda: [terminal.text] and terminal.process.poll() is not None, 30)
    assert terminal.process.returncode == code, terminal.text
    assert "Traceback" not in terminal.text
    assert len(cli("dead", "list", "--json", amqp_url=amqp_url).documents) == left


def test_a_command_that_cannot_do_its_work_says_so_in_a_sentence(
    cli: Cli, amqp_url: str, sqlite_url: str
) -> None:
    """No queue, no letter, no ledger, no broker, no such code."""
    missing = cli("dead", "list", amqp_url=amqp_url)
    assert missing.code == 1
    assert "queue session.create.dead: missing" in missing.err

    cli("topology", "apply", amqp_url=amqp_url)
    id_ = uuid4()
    nobody = cli("dead", "show", id_, amqp_url=amqp_url, ledger_url=sqlite_url)
    assert (nobody.code, f"No letter {id_}" in nobody.err) == (1, True)
    no_ledger = cli("dead", "redrive", "--yes", amqp_url=amqp_url, ledger_url=sqlite_url)
    assert no_ledger.code == 1
    assert "there is no ledger file" in no_ledger.err
    assert "cannot be reached" in cli("dead", "list", amqp_url="amqp://localhost:1/").err
    for arguments in (["--code", "wrong"], ["--since", "later"], ["--request-id", "7"]):
        wrong = cli("dead", "list", *arguments, amqp_url=amqp_url)
        assert wrong.code == 2
        assert arguments[0] in wrong.err


def test_an_operator_who_may_not_read_or_publish_is_told_so_and_reopens_nothing(
    cli: Cli, rabbitmq: RabbitMQ, vhost: str, amqp_url: str, sqlite_url: str
) -> None:
    """Before the first letter is touched."""
    cli("topology", "apply", amqp_url=amqp_url)
    cli("ledger", "upgrade", ledger_url=sqlite_url)
    with Requester(amqp_url) as requester:
        requester.send(b"a letter", routing_key="session.create.dead")
    blind = rabbitmq.add_user(f"blind-{vhost}", "secret", vhost, write="amq.default")
    mute = rabbitmq.add_user(f"mute-{vhost}", "secret", vhost, read="session.*")

    unread = cli("dead", "list", amqp_url=blind)
    assert unread.code == 1
    assert f"user blind-{vhost} has no read permission on queue session.create.dead" in unread.err
    unsent = cli("dead", "redrive", "--yes", amqp_url=mute, ledger_url=sqlite_url)
    assert unsent.code == 1
    assert f"user mute-{vhost} has no write permission on exchange amq.default" in unsent.err
    assert "secret" not in unread.err + unsent.err
    assert len(cli("dead", "list", "--json", amqp_url=amqp_url).documents) == 1
