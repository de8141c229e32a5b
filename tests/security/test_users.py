"""The broker's users of docs/security.md: each can do its work, and no more."""

from __future__ import annotations

import re
import subprocess
import sys
from contextlib import closing
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pika
import pytest
from pika.exceptions import ChannelClosedByBroker

from session_client import ConnectionFailed, RequestNotRouted, SessionClient
from tests.security.conftest import ROOT, VHOST
from tests.support.lab import Lab, code_of, request

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from pika.adapters.blocking_connection import BlockingChannel

    from tests.acceptance.conftest import Cli
    from tests.security.conftest import Secured
    from tests.support.worker_process import WorkerProcess

MAY_NOT_DECLARE = "no configure (or read )?permission on queue "
"""Only RabbitMQ 3.11 and later say which of the two is missing."""


@pytest.fixture
def lab(secured: Secured, sqlite_url: str, tmp_path: Path) -> Iterator[Lab]:
    """The page's vhost, whose workers are the page's; it is empty again afterwards."""
    lab = Lab(secured.broker, VHOST, sqlite_url, tmp_path)
    lab.url = secured.broker.vhost(VHOST)
    with closing(lab):
        yield lab
    purge = lab.requester()
    with purge:
        for queue in lab.broker.queue_depths(VHOST):
            if queue.startswith("session."):
                purge.channel.queue_purge(queue)
        purge.channel.queue_delete("session.create.ledger")  # the next test has another one


@pytest.fixture
def start(lab: Lab, secured: Secured) -> Callable[..., WorkerProcess]:
    """Starts the page's worker."""

    def start(user: str = "worker", **settings: object) -> WorkerProcess:
        given: dict[str, Any] = {
            "declare": "false",
            "max_attempts": 2,
            "retry_delays": "1,5,30,120,600",
        } | settings
        return lab.worker(amqp_url=secured.amqp_url(user), **given)

    return start


def someone(lab: Lab, configure: str = "", write: str = "", read: str = "") -> str:
    """The URL of a new user with these permissions."""
    return lab.broker.add_user(f"user-{uuid4().hex[:8]}", "pass-word", VHOST, configure, write, read)


def test_the_worker_reaches_every_outcome(lab: Lab, start: Callable[..., WorkerProcess]) -> None:
    """Replies to the default queue, a direct address and queues of requesters; retry, parking, slow lane."""
    with lab.requester() as requester, lab.requester(replies_to="amq.rabbitmq.reply-to") as direct:
        requester.send(request(), expiration="1", correlation_id="late")
        lab.holds("session.create.undelivered", 1)
        start()
        (late,) = requester.collect()
        assert code_of(late) == "expired"
        assert code_of(direct.ask(request())) is None
        assert code_of(requester.ask(request(fails=1))) is None
        assert code_of(requester.ask(request(fails=2))) == "handler_failed"
        own = requester.channel.queue_declare("", exclusive=True, auto_delete=True).method.queue
        assert own.startswith("amq.gen-")
        requester.send(request(), reply_to=own)
        requester.send(request(), reply_to=None)
    (reply,) = lab.take("session.replies")
    assert code_of(reply) is None
    lab.quiet("session.create.dead")
    lab.holds("session.create.dead", 1)


def test_the_worker_finds_a_queue_missing(
    lab: Lab, secured: Secured, start: Callable[..., WorkerProcess], cli: Cli
) -> None:
    lab.broker.delete_queue(VHOST, "session.create.retry.30s")
    worker = start(wait=False)
    assert worker.wait() != 0
    assert "session.create.retry.30s: missing" in worker.output[-1]
    assert cli("topology", "apply", amqp_url=secured.amqp_url("operator")).code == 0


def test_the_declaring_worker_declares_what_was_deleted(
    lab: Lab, start: Callable[..., WorkerProcess]
) -> None:
    for queue in ("session.create", "session.create.dead", "session.create.retry.1s", "session.replies"):
        lab.broker.delete_queue(VHOST, queue)
    start("declaring_worker", declare="true")
    with lab.requester() as requester:
        assert code_of(requester.ask(request(fails=1))) is None


@pytest.mark.parametrize("reply", ["queue", "direct"])
async def test_the_requester_is_answered(
    lab: Lab, secured: Secured, start: Callable[..., WorkerProcess], reply: Any
) -> None:
    start()
    async with SessionClient(secured.amqp_url("shop"), name="shop", reply=reply) as client:
        assert (await client.create_session(user_id="ada@example.com")).status == "completed"


@pytest.mark.parametrize("options", [[], ["--own-queue"]], ids=["direct reply-to", "own queue"])
def test_a_requester_with_another_library_is_answered(
    lab: Lab, secured: Secured, start: Callable[..., WorkerProcess], options: list[str]
) -> None:
    """The example with pika, as the page's requester."""
    start()
    example, url = str(ROOT / "examples" / "pika_requester.py"), secured.amqp_url("shop")
    ask = [sys.executable, example, "--url", url, "--user", "ada@example.com", *options]
    done = subprocess.run(ask, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert '"completed"' in done.stdout


FORBIDDEN: dict[str, Callable[[BlockingChannel], object]] = {
    "consume the work": lambda channel: channel.basic_consume("session.create", print),
    "get the work": lambda channel: channel.basic_get("session.create"),
    "get a dead letter": lambda channel: channel.basic_get("session.create.dead"),
    "get what waits for its retry": lambda channel: channel.basic_get("session.create.retry.1s"),
    "get others' replies": lambda channel: channel.basic_get("session.replies"),
    "purge the work": lambda channel: channel.queue_purge("session.create"),
    "delete the dead letters": lambda channel: channel.queue_delete("session.create.dead"),
    "declare a queue": lambda channel: channel.queue_declare("session.create.more"),
    "listen in": lambda channel: channel.queue_bind(
        channel.queue_declare("", exclusive=True).method.queue, "session", "#"
    ),
    "write to any queue": lambda channel: channel.basic_publish("", "session.create.dead", b""),
    "ask for what it may not ask for": lambda channel: channel.basic_publish(
        "session", "extend_session", b""
    ),
    "take another client's name": lambda channel: channel.queue_declare("session.replies.bank.00"),
}


@pytest.mark.parametrize("what", FORBIDDEN)
def test_a_requesters_user_may_not_do_a_workers_work(secured: Secured, what: str) -> None:
    with closing(pika.BlockingConnection(pika.URLParameters(secured.amqp_url("shop")))) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        with pytest.raises(ChannelClosedByBroker, match="ACCESS_REFUSED"):
            FORBIDDEN[what](channel)


@pytest.mark.parametrize("what", ["get a dead letter", "get others' replies", "purge the dead letters"])
def test_a_workers_user_may_not_do_an_operators_work(secured: Secured, what: str) -> None:
    doing = FORBIDDEN | {"purge the dead letters": lambda channel: channel.queue_purge("session.create.dead")}
    with closing(pika.BlockingConnection(pika.URLParameters(secured.amqp_url("worker")))) as connection:
        channel = connection.channel()
        with pytest.raises(ChannelClosedByBroker, match="ACCESS_REFUSED"):
            doing[what](channel)


def test_the_operator_checks_sends_and_works_on_dead_letters(
    lab: Lab, secured: Secured, start: Callable[..., WorkerProcess], cli: Cli, tmp_path: Path
) -> None:
    """Sees them, redrives them and drops them."""
    start()
    where = {"amqp_url": secured.amqp_url("operator"), "ledger_url": lab.ledger_url}
    assert cli("topology", "check", amqp_url=where["amqp_url"]).code == 0
    assert cli("send", "--user", "ada@example.com", amqp_url=where["amqp_url"]).code == 0
    bug = tmp_path / "bug"
    bug.touch()
    with lab.requester() as requester:
        assert code_of(requester.ask(request(bug=str(bug)))) == "handler_failed"
        assert code_of(requester.ask(b"no request", correlation_id=str(uuid4()))) is not None
        assert len(cli("dead", "list", "--json", **where).documents) == 2
        bug.unlink()
        assert cli("dead", "redrive", "--code", "handler_failed", **where).code == 0
        assert code_of(requester.collect(3)[-1]) is None
    assert cli("dead", "purge", "--yes", amqp_url=where["amqp_url"]).code == 0
    lab.quiet()


@pytest.mark.parametrize(
    ("write", "read", "said"),
    [
        ("", ".*", "has no write permission on exchange amq.default"),
        (".*", r"^session\.create$", "has no read permission on queue session.create.undelivered"),
        (".*", "^$", "has no read permission on queue session.create"),
    ],
)
def test_a_worker_that_starts_without_a_permission_names_it(
    lab: Lab, write: str, read: str, said: str
) -> None:
    url = someone(lab, "", write, read)
    worker = lab.worker(wait=False, amqp_url=url, declare="false", operations="create_session")
    assert worker.wait() != 0
    words = "".join(worker.output)
    assert said in worker.output[-1]
    assert f"user user-{url.partition('user-')[2][:8]} " in worker.output[-1]
    assert "set_permissions" in worker.output[-1]
    assert "Traceback" not in words
    assert "pass-word" not in words


async def test_a_client_without_a_permission_names_it(lab: Lab) -> None:
    may_not_declare, may_not_publish = someone(lab, "", ".*", ".*"), someone(lab, ".*", "", ".*")
    with pytest.raises(ConnectionFailed, match=MAY_NOT_DECLARE + r"session\.replies"):
        await SessionClient(may_not_declare).open()
    async with SessionClient(may_not_publish) as client:
        with pytest.raises(RequestNotRouted, match="has no write permission on exchange session"):
            await client.create_session(user_id="ada@example.com")


def test_commands_without_a_permission_name_it(lab: Lab, secured: Secured, cli: Cli) -> None:
    with lab.requester() as requester:
        requester.send(b"a letter", routing_key="session.create.dead")
    shop = secured.amqp_url("shop")
    sent = cli("send", "--user", "ada@example.com", amqp_url=shop)
    unpublished = cli("send", "--user", "ada@example.com", amqp_url=someone(lab, ".*", "", ".*"))
    applied = cli("topology", "apply", amqp_url=shop)
    listed = cli("dead", "list", amqp_url=shop)

    assert re.search("user session_shop has " + MAY_NOT_DECLARE + r"session\.replies\.cli\.", sent.err)
    assert "has no write permission on exchange session " in unpublished.err
    assert "start a worker" not in unpublished.err
    assert "user session_shop has no configure permission on exchange session" in applied.err
    assert "user session_shop has no read permission on queue session.create.dead" in listed.err
    for ran in (sent, unpublished, applied, listed):
        assert ran.code == 1
        assert "pass" not in ran.err.replace("pass_", "")


def test_a_permission_that_is_withdrawn_loses_nothing(
    lab: Lab, secured: Secured, start: Callable[..., WorkerProcess]
) -> None:
    """The worker does not give up a single reply; it waits, says for what, and goes on once it is granted."""
    user, write, read = "session_worker", r"^amq\.default$", r"^session\.[a-z]+(\.undelivered)?$"
    worker = start()
    try:
        with lab.requester() as requester, lab.requester(replies_to="amq.rabbitmq.reply-to") as direct:
            lab.broker.set_permissions(user, VHOST, "", "", read)
            direct.send(request())  # by a connection that the worker opens for it
            worker.wait_until(lambda line: "amq.default" in str(line.get("reason")), "the permission's name")
            requester.send(request())
            worker.wait_for("no link to the broker", count=2)
            lab.broker.set_permissions(user, VHOST, "", write, "")
            worker.wait_until(lambda line: "no read permission" in str(line.get("reason")), "the other one's")
            lab.broker.set_permissions(user, VHOST, "", write, read)
            assert code_of(requester.collect(1, 30)[0]) is None
            assert code_of(direct.collect(1, 30)[0]) is None
        lab.quiet()
        assert not any(line["event"] == "reply undeliverable" for line in worker.logs)
        assert set(lab.runs().values()) == {1}
    finally:
        lab.broker.set_permissions(user, VHOST, "", write, read)
