"""The programs in ``examples/`` as their readers run them, against a real worker."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import httpx
import pytest

from session_worker.sandbox.workspace import free_port
from tests.acceptance.conftest import environment
from tests.support.waiting import soon

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.acceptance.conftest import Cli
    from tests.support.external_rabbitmq import ExternalRabbitMQ
    from tests.support.servers import RabbitMQ
    from tests.support.worker_process import WorkerProcess

    StartWorker = Callable[..., WorkerProcess]

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
REQUESTERS = ("pika", "pika --own-queue", "amqplib", "amqplib --own-queue")
TITLE = "Search of the east wing"
HANDLER = """
import asyncio
from pathlib import Path

from session_worker.operations.handler import Rejected

async def handle(request, context):
    if request.user_id == "nobody":
        raise Rejected("nobody may not", code="nobody")
    if request.user_id == "breaks":
        raise ConnectionError("the other side is away")
    while request.user_id == "waits" and not Path("gate").exists():
        await asyncio.sleep(0.02)
"""


@pytest.fixture(params=REQUESTERS)
def requester(request: pytest.FixtureRequest, amqp_url: str) -> list[str]:
    """The command line of one of the requesters."""
    name, *options = request.param.split()
    if name == "pika":
        program = [sys.executable, str(EXAMPLES / "pika_requester.py")]
    else:
        program = ["node", str(request.getfixturevalue("amqplib") / "amqplib_requester.mjs")]
    return [*program, "--url", amqp_url, *options]


@contextmanager
def started(*command: object, **variables: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [str(each) for each in command],
        env=environment() | variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def run(*command: object) -> tuple[int, str, str]:
    """Exit code, output and errors of a program; a stack trace is no answer."""
    with started(*command) as process:
        out, err = process.communicate(timeout=60)
    assert "Traceback" not in err
    assert "    at " not in err, err
    return process.returncode, out, err


def test_a_requester_gets_its_answer_the_same_one_again_and_a_refusal_that_names_the_field(
    requester: list[str], worker_process: StartWorker, amqp_url: str, sqlite_url: str
) -> None:
    worker_process(amqp_url=amqp_url, ledger_url=sqlite_url)
    ask = (*requester, "--user", "ada@example.com", "--request-id", uuid4(), "--title", TITLE)

    first, again = run(*ask), run(*ask)
    code, out, _ = run(*requester, "--user", "ada@example.com", "--title", "x" * 201)

    assert first == again
    assert (first[0], json.loads(first[1])["status"]) == (0, "completed")
    assert (code, json.loads(out)["status"]) == (1, "failed")
    assert json.loads(out)["error"].startswith("payload.title: ")


def test_a_requester_creates_reads_lists_and_closes_sessions(
    requester: list[str], worker_process: StartWorker, amqp_url: str, sqlite_url: str
) -> None:
    worker_process(amqp_url=amqp_url, ledger_url=sqlite_url)
    user = ("--user", "ada@example.com")

    def ask(*options: str) -> dict[str, Any]:
        code, out, err = run(*requester, *options, *user)
        assert code == 0, out + err
        payload = json.loads(out)["payload"]
        assert isinstance(payload, dict)
        return payload

    created = ask("--title", TITLE)["session_id"]
    got, listed = ask("get", "--session-id", created), ask("list")
    closed, left = ask("close", "--session-id", created), ask("list")
    code, out, _ = run(*requester, "get", "--user", "bob@example.com", "--session-id", created)

    assert (got["session_id"], got["title"], got["active"]) == (created, TITLE, True)
    assert ([each["session_id"] for each in listed["sessions"]], left["total_count"]) == ([created], 0)
    assert (closed["session_id"], closed["total_requests"]) == (created, 1)
    assert (code, json.loads(out)["metadata"]["error_code"]) == (1, "session_not_found")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "--user"),
        (["open", "--user", "ada"], "create"),
        (["--user", "ada", "--colour"], "--colour"),
        (["--user", "ada", "--timeout", "x"], "--timeout"),
    ],
    ids=["no user", "unknown operation", "unknown option", "no number"],
)
def test_a_requester_that_is_called_wrongly_says_so_and_sends_nothing(
    requester: list[str],
    cli: Cli,
    rabbitmq: RabbitMQ | ExternalRabbitMQ,
    vhost: str,
    amqp_url: str,
    options: list[str],
    words: str,
) -> None:
    cli("topology", "apply", amqp_url=amqp_url)
    code, out, err = run(*requester, *options)

    assert (code, out) == (2, "")
    assert words in err
    assert rabbitmq.queue_depths(vhost)["session.create"] == 0


def test_a_requester_survives_a_lost_connection_and_waits_for_a_worker(
    requester: list[str],
    cli: Cli,
    worker_process: StartWorker,
    rabbitmq: RabbitMQ | ExternalRabbitMQ,
    vhost: str,
    amqp_url: str,
    sqlite_url: str,
) -> None:
    """It asks again under the same id: two messages, one session."""
    cli("topology", "apply", amqp_url=amqp_url)
    with started(*requester, "--user", "ada@example.com") as process:
        soon(lambda: rabbitmq.queue_depths(vhost)["session.create"] == 1)
        soon(lambda: rabbitmq.close_connections(vhost) == 1)
        soon(lambda: rabbitmq.queue_depths(vhost)["session.create"] == 2)
        worker_process(amqp_url=amqp_url, ledger_url=sqlite_url)
        out, err = process.communicate(timeout=60)

    assert process.returncode == 0, err
    (entry,) = cli("requests", "--json", ledger_url=sqlite_url).documents
    assert json.loads(out)["payload"]["session_id"] == entry["session_id"]


def test_a_requester_says_with_which_id_to_ask_again_or_that_there_is_no_worker(
    requester: list[str], cli: Cli, amqp_url: str
) -> None:
    request_id = str(uuid4())
    ask = (*requester, "--user", "ada@example.com", "--request-id", request_id, "--timeout", 1)
    nowhere = run(*ask)
    cli("topology", "apply", amqp_url=amqp_url)
    unanswered = run(*ask)

    assert (nowhere[0], nowhere[1]) == (unanswered[0], unanswered[1]) == (1, "")
    assert "start a worker" in nowhere[2]
    assert f"no answer within 1 s; ask again with --request-id {request_id}" in unanswered[2]


def test_a_requester_says_at_once_that_no_queue_is_bound_or_that_it_may_not_publish(
    requester: list[str], cli: Cli, rabbitmq: RabbitMQ | ExternalRabbitMQ, vhost: str, amqp_url: str
) -> None:
    ask = (*requester, "--user", "ada@example.com")
    cli("topology", "apply", amqp_url=amqp_url)
    rabbitmq.delete_queue(vhost, "session.create")
    unrouted = run(*ask)
    nobody = rabbitmq.add_user(f"user-{uuid4().hex[:8]}", "pass-word", vhost, ".*", "^$", ".*")
    forbidden = run(*ask, "--url", nobody)

    assert (unrouted[0], unrouted[1]) == (forbidden[0], forbidden[1]) == (1, "")
    assert "start a worker" in unrouted[2]
    assert "access to exchange 'session'" in forbidden[2]
    assert "pass-word" not in forbidden[2]


def server_of(gateway: str, port: int) -> tuple[object, ...]:
    """The command that serves one of the gateways."""
    if gateway == "fastapi":
        return sys.executable, "-m", "uvicorn", "--app-dir", EXAMPLES, "--port", port, "fastapi_gateway:app"
    return sys.executable, "-m", "flask", "--app", EXAMPLES / "flask_gateway", "run", "--port", port


@pytest.fixture(params=["fastapi", "flask"])
def gateway(request: pytest.FixtureRequest, amqp_url: str) -> Iterator[httpx.Client]:
    """One of the gateways behind a real server."""
    port = free_port()
    with started(*server_of(request.param, port), AMQP_URL=amqp_url, ANSWER_SECONDS="2") as server:
        soon(lambda: server.poll() is not None or _listens(port), 30)
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30, trust_env=False) as http:
            yield http
        server.send_signal(signal.SIGINT)
        _, log = server.communicate(timeout=30)
    assert request.param == "flask" or "Application shutdown complete" in log
    assert "Traceback" not in log


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.parametrize("name", ["fastapi", "flask"])
def test_a_gateway_starts_while_the_broker_is_away_and_says_so_to_who_asks(name: str) -> None:
    port, nobody = free_port(), f"amqp://127.0.0.1:{free_port()}/"
    with started(*server_of(name, port), AMQP_URL=nobody, ANSWER_SECONDS="0.5") as server:
        soon(lambda: server.poll() is not None or _listens(port), 30)
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30, trust_env=False) as http:
            code, answer = post(http)
        server.terminate()
        server.communicate(timeout=30)
    assert code == 504
    assert "cannot be reached" in answer["error"]


def post(gateway: httpx.Client, **fields: Any) -> tuple[int, dict[str, Any]]:
    answer = gateway.post("/sessions", json={"user_id": "ada@example.com", **fields})
    return answer.status_code, answer.json()


def test_a_gateway_turns_answers_into_status_codes(
    gateway: httpx.Client, worker_process: StartWorker, amqp_url: str, sqlite_url: str, tmp_path: Path
) -> None:
    """Created; the same again; a conflict; a wrong field; the handler's no; a handler that fails."""
    (tmp_path / "their_handler.py").write_text(HANDLER)
    worker_process(amqp_url=amqp_url, ledger_url=sqlite_url, handler="their_handler:handle", max_attempts=1)
    request_id = str(uuid4())

    first = post(gateway, title=TITLE, request_id=request_id)
    again = post(gateway, title=TITLE, request_id=request_id)
    conflict, conflicting = post(gateway, title="Another", request_id=request_id)
    wrong, named = post(gateway, title="x" * 201)
    rejected, refused = post(gateway, user_id="nobody")
    broken, failed = post(gateway, user_id="breaks")

    assert (first[0], first[1]["status"], first[1]["request_id"]) == (201, "completed", request_id)
    assert first == again
    assert (conflict, conflicting["code"], conflicting["request_id"]) == (
        409,
        "idempotency_conflict",
        request_id,
    )
    assert (wrong, "payload.title: " in str(named)) == (400, True)
    assert (rejected, refused["code"], refused["error"]) == (403, "rejected", "nobody may not")
    assert (broken, failed["code"], failed["retryable"]) == (503, "handler_failed", True)


def test_a_gateway_reads_lists_and_closes_sessions(
    gateway: httpx.Client, worker_process: StartWorker, amqp_url: str, sqlite_url: str
) -> None:
    worker_process(amqp_url=amqp_url, ledger_url=sqlite_url)
    created = post(gateway, title=TITLE)[1]["payload"]["session_id"]
    ada, bob = {"user_id": "ada@example.com"}, {"user_id": "bob@example.com"}

    got = gateway.get(f"/sessions/{created}", params=ada).json()
    listed = gateway.get("/sessions", params=ada).json()
    hidden = gateway.get(f"/sessions/{created}", params=bob)
    closed = gateway.post(f"/sessions/{created}/close", params=ada).json()
    left = gateway.get("/sessions", params=ada).json()

    assert (got["payload"]["title"], got["payload"]["active"]) == (TITLE, True)
    assert [each["session_id"] for each in listed["payload"]["sessions"]] == [created]
    assert (hidden.status_code, hidden.json()["code"]) == (404, "session_not_found")
    assert (closed["payload"]["session_id"], left["payload"]["total_count"]) == (created, 0)


def test_a_gateway_tells_with_which_id_to_ask_again_and_outlives_its_connection(
    gateway: httpx.Client,
    worker_process: StartWorker,
    rabbitmq: RabbitMQ | ExternalRabbitMQ,
    vhost: str,
    amqp_url: str,
    sqlite_url: str,
    tmp_path: Path,
) -> None:
    """No queue: 503. No answer in time: 504; later the same id gets the answer, over a new connection."""
    nowhere, _ = post(gateway)
    (tmp_path / "their_handler.py").write_text(HANDLER)
    worker = worker_process(amqp_url=amqp_url, ledger_url=sqlite_url, handler="their_handler:handle")
    late, unanswered = post(gateway, user_id="waits")
    rabbitmq.close_connections(vhost)
    (tmp_path / "gate").touch()
    worker.wait_for("worker up", count=2)
    in_the_end, answer = post(gateway, user_id="waits", request_id=unanswered["request_id"])

    assert (nowhere, late, in_the_end) == (503, 504, 201)
    assert answer["request_id"] == unanswered["request_id"]


def test_the_first_request_example_prints_a_session_or_a_sentence(
    worker_process: StartWorker, amqp_url: str, sqlite_url: str
) -> None:
    ask = (sys.executable, EXAMPLES / "first_request.py", amqp_url)
    nowhere = run(*ask)
    worker_process(amqp_url=amqp_url, ledger_url=sqlite_url)
    answered = run(*ask)

    assert (nowhere[0], "reached no worker's queue" in nowhere[2]) == (1, True)
    assert re.match(r"created ts_\d{6}_\w+ at ", answered[1])
    assert answered[0] == 0


def test_the_lock_of_the_node_example_names_no_registry() -> None:
    assert "resolved" not in (EXAMPLES / "package-lock.json").read_text()
