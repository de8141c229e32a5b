"""The doctor's judgements on what it is told, where no server can be made to say it."""

from __future__ import annotations

import socket
import sqlite3
import threading
from contextlib import closing
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from session_contracts import Names
from session_worker.broker.topology import Found, Topology
from session_worker.ledger import LedgerError, upgrade
from session_worker.operators.doctor import State, cross_checks, management, sqlite
from session_worker.operators.doctor.broker import BrokerFindings, version
from session_worker.operators.doctor.ledger_findings import LARGE_BYTES, LedgerFindings, clock_skew, size
from session_worker.operators.doctor.local import holder_timeout, known_settings
from session_worker.operators.doctor.postgresql import server
from session_worker.operators.doctor.result import Result, failed, folded, from_error, ok
from session_worker.operators.doctor.sqlite import file_system
from session_worker.operators.operations import known
from session_worker.settings import Settings, load


@pytest.mark.parametrize(
    ("product", "number", "state", "words"),
    [
        ("RabbitMQ", "3.9.29", State.FAILED, "3.9.29 may lose"),
        ("RabbitMQ", "3.10.8", State.OK, "stream_queue"),
        ("RabbitMQ", "3.13.7", State.OK, "x-death"),
        ("RabbitMQ", "4.1.0-rc.1", State.OK, "RabbitMQ 4.1.0-rc.1"),
        ("RabbitMQ", "5.0.0", State.WARNING, "newer"),
        ("LavinMQ", "2.0.0", State.WARNING, "not RabbitMQ"),
        ("RabbitMQ", "unknown", State.WARNING, "not RabbitMQ"),
    ],
)
def test_a_version_is_judged_and_its_traps_are_told(
    product: str, number: str, state: State, words: str
) -> None:
    result = version(product, number)
    assert (result.state, words in result.found) == (state, True)


def test_traps_of_other_versions_are_not_told() -> None:
    assert version("RabbitMQ", "4.0.5").found == "RabbitMQ 4.0.5"
    assert "stream_queue" not in version("RabbitMQ", "3.12.0").found


def test_a_variable_that_nothing_reads_is_a_warning_that_names_the_right_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert known_settings("session").state is State.OK
    monkeypatch.setenv("SESSION_WORKER_CONCURENCY", "3")
    result = known_settings("session")
    assert result.state is State.WARNING
    assert "SESSION_WORKER_CONCURENCY" in result.found
    assert "SESSION_WORKER_CONCURRENCY" in str(result.fix)


@pytest.mark.parametrize(
    ("seconds", "state"), [(2, State.WARNING), (5, State.OK), (15, State.OK), (301, State.WARNING)]
)
def test_a_holder_timeout_is_neither_hasty_nor_sluggish(seconds: float, state: State) -> None:
    assert holder_timeout(seconds).state is state


@pytest.mark.parametrize(("seconds", "state"), [(2.0, State.OK), (-2.1, State.WARNING), (2.1, State.WARNING)])
def test_two_seconds_of_skew_are_allowed(seconds: float, state: State) -> None:
    assert clock_skew(seconds).state is state


def test_a_large_ledger_of_which_nothing_is_deleted_is_a_warning() -> None:
    assert size(1, LARGE_BYTES + 1, None).state is State.WARNING
    assert size(1, LARGE_BYTES + 1, 86_400).state is State.OK
    assert size(1, LARGE_BYTES, None).state is State.OK


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, "PostgreSQL 15.20"),
        ({"standby": True}, "a standby"),
        ({"read_only": "on"}, "read-only"),
        ({"plans": "auto"}, "connection pooler"),
    ],
)
def test_what_a_server_tells_of_itself(change: dict[str, object], words: str) -> None:
    sound = {
        "version": "15.20",
        "database": "ledger",
        "standby": False,
        "read_only": "off",
        "plans": "force_generic_plan",
    }
    result = server(sound | change, 1)
    assert words in result.found
    assert result.state is (State.FAILED if change else State.OK)


async def test_to_try_a_sqlite_ledger_does_not_lengthen_its_write_ahead_log(tmp_path: Path) -> None:
    """On a nearly full disk the log would keep the room that the workers need."""
    path, settings = tmp_path / "ledger.db", load(amqp_url="amqp://mq/")
    await upgrade(f"sqlite:///{path}")
    log, findings = path.with_name("ledger.db-wal"), LedgerFindings()
    with closing(sqlite3.connect(path)) as worker:  # with the last connection the log goes
        worker.execute("CREATE TABLE mine (id)")
        before = log.stat().st_size
        sqlite.examine(path, settings, findings)
        assert log.stat().st_size == before
    assert findings.usable
    assert sorted(each.name for each in tmp_path.iterdir()) == ["ledger.db"]


@pytest.mark.parametrize(("consuming", "slow"), [(1, 0), (0, 0)])
def test_why_workers_pause_is_not_asked_while_the_ledger_fails(consuming: int, slow: int) -> None:
    """They pause because of it; between two tries only one of the two queues may have a consumer."""
    names = Names()
    counted = {names.work: consuming, names.undelivered: slow}
    found = {f"queue {name}": Found(f"queue {name}", 0, count, None) for name, count in counted.items()}
    ledger = LedgerFindings([failed("ledger", "its disk is full", "make room")], alive=1, gone=0)

    assert judged(ledger, found).state is State.SKIPPED
    ledger.results.clear()
    assert judged(ledger, found).state is State.WARNING


def judged(ledger: LedgerFindings, found: dict[str, Found]) -> Result:
    settings = load(amqp_url="amqp://mq/", operations="create_session,get_session")
    return cross_checks.workers(settings, known(settings), ledger, BrokerFindings(found=found))


def test_an_operation_that_nobody_serves_is_named_among_those_that_are() -> None:
    counted = {"session.create": 2, "session.create.undelivered": 2, "session.get": 0}
    found = {f"queue {name}": Found(f"queue {name}", 7, count, None) for name, count in counted.items()}
    result = judged(LedgerFindings(alive=2, gone=0), found)
    assert result.state is State.WARNING
    assert result.found.endswith("0 consume session.get: nobody consumes session.get")
    assert "SESSION_WORKER_OPERATIONS" in str(result.fix)


def test_messages_of_operations_that_nobody_serves_are_named_with_how_many_there_are() -> None:
    """Not those of other installations, of a worker of another app, or of an operation without messages."""

    def queue(name: str, messages: int, consumers: int = 0) -> dict[str, Any]:
        return {"name": name, "messages": messages, "consumers": consumers}

    queues: list[dict[str, Any]] = [
        *(queue("session.create", 5), queue("session.replies", 9), queue("session.replies.shop.1", 9)),
        *(queue("session.extend_session", 1, 1), queue("session.extend_session.dead", 1)),
        *(queue("session.rename", 0), queue("session.rename.dead", 3), queue("session.rename.retry.5s", 1)),
        *(queue("session.eu.create", 4), queue("session.idle", 0), {"name": "session.young"}),
    ]
    settings = load(amqp_url="amqp://mq/")
    [told] = management.left_alone("session", known(settings), queues)
    assert (told.name, told.state) == ("operation rename", State.WARNING)
    assert "4 messages wait in 3 of its queues" in told.found
    assert "dead list --operation rename" in str(told.fix)


def test_the_innermost_mount_tells_the_file_system(tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(
        f"/dev/sda / ext4 rw 0 0\nserver:/share {tmp_path / 'far'} nfs4 rw 0 0\n"
        f"/dev/sdb {tmp_path}/far/with\\040space xfs rw 0 0\n"
    )
    assert file_system(tmp_path / "near.db", mounts) == "ext4"
    assert file_system(tmp_path / "far" / "deeper" / "ledger.db", mounts) == "nfs4"
    assert file_system(tmp_path / "far" / "with space" / "ledger.db", mounts) == "xfs"
    assert file_system(tmp_path / "far" / "ledger.db", Path("/nowhere")) == ""


def test_a_fix_that_several_need_is_told_once() -> None:
    """What is different stays as it is, and so does what needs no fix."""
    a, b, c = (failed(f"queue {name}", "missing", "make it") for name in "abc")
    other, fine = failed("ledger", "missing", "upgrade it"), ok("queue d", "is there")

    found = folded([a, fine, b, other, c])

    assert [each.name for each in found] == ["queue a", "queue d", "queue b", "ledger", "queue c"]
    assert [each.fix for each in found] == [
        *("make it", None, "do the same as for queue a", "upgrade it", "do the same as for queue a"),
    ]


def test_where_all_parts_are_missing_that_is_one_result() -> None:
    parts = [failed(name, "missing", "make it") for name in ("exchange e", "queue a", "queue b")]

    (first, none, last) = folded([ok("broker", "is there"), *parts, ok("alarms", "none")])

    assert (first.name, last.name) == ("broker", "alarms")
    assert (none.name, none.found, none.fix) == ("exchange, queues", "none of the 3 exist", "make it")


def test_an_error_says_what_to_do_or_the_check_does() -> None:
    told = from_error("ledger", LedgerError("it is down (a; b: c)", "start it"), "see its log")
    silent = from_error("ledger", LedgerError("it cannot be used: d"), "see its log")

    assert (told.state, told.found, told.fix) == (State.FAILED, "it is down (a; b: c)", "start it")
    assert (silent.found, silent.fix) == ("it cannot be used: d", "see its log")


# ------------------------------------------------------------------------- the management interface

QUEUES = {queue.name: queue for queue in Topology.of(Names(), [1, 600]).queues}


@pytest.mark.parametrize(
    ("queue", "policy", "harmful"),
    [
        ("session.create", {"message-ttl": 86_400_000}, True),
        ("session.create.retry.600s", {"message-ttl": 1000}, True),
        ("session.create.retry.600s", {"message-ttl": 600_000}, False),
        ("session.create.dead", {"expires": 86_400_000}, True),
        ("session.create.dead", {"max-length-bytes": 1}, True),
        ("session.create.dead", {"max-length-bytes": 2**40}, False),
        ("session.create", {"max-length": 1}, True),
        ("session.create", {"overflow": "drop-head"}, True),
        ("session.create", {"overflow": "reject-publish"}, False),
        ("session.replies", {"overflow": "drop-head"}, False),
        ("session.create", {"delivery-limit": 3}, True),
        ("session.create", {"delivery-limit": 20}, False),
        ("session.create", {"consumer-timeout": 20_000}, True),
        ("session.create", {"consumer-timeout": 1_800_000}, False),
        ("session.create", {"dead-letter-exchange": "x", "dead-letter-strategy": "at-most-once"}, False),
        ("session.create", {"queue-leader-locator": "balanced"}, False),
        ("session.create", {}, False),
    ],
)
def test_a_policy_is_warned_of_where_it_wins_and_is_another_than_the_queue_needs(
    queue: str, policy: dict[str, object], harmful: bool
) -> None:
    about = {"policy": "p", "operator_policy": None, "effective_policy_definition": policy}
    found = management.policies(QUEUES[queue], about, "v", 50_000)
    assert [each.state for each in found] == [State.WARNING] * harmful


def test_what_the_broker_has_not_gathered_yet_is_not_said_to_be_well() -> None:
    [told] = management.policies(QUEUES["session.create"], {}, "v", 50_000)
    assert told.state is State.SKIPPED


async def examined(settings: Settings) -> list[Result]:
    return await management.examine(settings, known(settings))


class _Web(BaseHTTPRequestHandler):
    """Answers everything with what its server was given."""

    def do_GET(self) -> None:
        status, headers, body = self.server.answer  # type: ignore[attr-defined]
        self.server.asked.append(dict(self.headers))  # type: ignore[attr-defined]
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize(
    ("status", "headers", "body", "said"),
    [
        (200, {}, b"<html>", "is not RabbitMQ's"),
        (200, {}, b"[]", "is not RabbitMQ's"),
        (200, {}, b'{"hello": "world"}', "is not RabbitMQ's"),
        (200, {}, b"\xff", "is not RabbitMQ's"),
        (404, {}, b"<html>", "answers 404"),
        (503, {}, b"", "answers 503"),
        (302, {"Location": "http://elsewhere.invalid/"}, b"", "answers 302"),
    ],
)
async def test_another_web_server_is_told_from_rabbitmqs(
    status: int, headers: dict[str, str], body: bytes, said: str
) -> None:
    with HTTPServer(("127.0.0.1", 0), _Web) as server:
        server.answer, server.asked = (status, headers, body), []  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, args=[0.02])
        thread.start()
        try:
            url = f"http://127.0.0.1:{server.server_port}/"
            [told] = await examined(load(amqp_url="amqp://ada:s3cret@mq/", management_url=url))
        finally:
            server.shutdown()
            thread.join()
    assert told.state is State.FAILED
    assert said in told.found
    assert "SESSION_WORKER_MANAGEMENT_URL" in str(told.fix)
    assert "s3cret" not in repr(told)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://127.0.0.1:1", "connection refused"),
        ("http://nowhere.invalid:15672", "the host name is not known"),
        ("https://127.0.0.1:1", "connection refused"),
    ],
)
async def test_a_management_interface_that_cannot_be_reached_is_told(url: str, said: str) -> None:
    [told] = await examined(load(amqp_url="amqp://ada:s3cret@mq/", management_url=url))
    assert said in told.found
    assert "rabbitmq-plugins enable rabbitmq_management" in str(told.fix)


async def test_one_that_says_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(management, "CHECK_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        [told] = await examined(load(amqp_url="amqp://ada:x@mq/", management_url=url))
    assert "the management interface did not answer" in told.found


async def test_without_its_url_nobody_is_asked() -> None:
    assert await examined(load(amqp_url="amqp://ada:x@mq/")) == []


@pytest.mark.parametrize(
    ("path", "vhost"), [("", "/"), ("/", "/"), ("/%2F", "/"), ("/team", "team"), ("/%2Fteam", "/team")]
)
def test_the_vhost_that_is_asked_about_is_the_workers(path: str, vhost: str) -> None:
    """A name may begin with a slash: about another vhost the answer would be that all is well."""
    assert management.Management("http://mq:15672", f"amqp://mq{path}").vhost == vhost
