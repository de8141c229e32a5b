"""docs/operations.md in the hands of somebody who has not read the code: every command on it is run.

What it warns of befalls the reader meanwhile, on a broker and with workers of its own.
"""

from __future__ import annotations

import configparser
import os
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import pika
import pytest

from session_worker.runtime.stopping import SHUTDOWN_SECONDS
from session_worker.runtime.supervisor import LAST_SECONDS
from session_worker.sandbox.workspace import free_port
from session_worker.settings import Settings
from tests.support import stand_ins
from tests.support.lab import answer, code_of, lock_ledger, request
from tests.support.ops import Ops
from tests.support.pages import blocks, follow, mentions
from tests.support.requester import Requester
from tests.support.waiting import soon
from tests.support.worker_process import PROGRAM

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.servers import PostgreSQL, RabbitMQ

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "operations.md"
SECURITY = ROOT / "docs" / "security.md"
PROGRAMS = {
    *("session-worker", "systemctl", "journalctl", "docker", "curl", "pip"),
    *("rabbitmqctl", "rabbitmq-diagnostics", "psql", "pg_dump", "pg_restore", "sqlite3"),
}
ELSEWHERE = {
    "python3 -m venv /opt/session-worker": "it is installed already; the Dockerfile does the same",
    "useradd --system --home-dir /var/lib/session-worker --create-home session-worker": "there is no systemd",
    "systemctl enable --now session-worker": "there is no systemd",
    "journalctl --unit session-worker --lines 20": "there is no systemd, whose log this is",
    "session-worker topology apply --adopt-ledger": "see tests/broker/test_marker.py",
    "TRACES=on docker compose --profile observability up --build": "there is no Docker; see test_compose.py",
}
ROLES = [f"session_{role}" for role in ("operator", "reader", "worker", "owner")]
HANDLER = """
from pathlib import Path


async def handle(request, context):
    if request.payload.title == "buggy" and not Path("mended").exists():
        raise KeyError("plan")
"""


class Trouble:
    """What befalls the reader: requests, faults, and the end of each."""

    def __init__(self, folder: Path, broker: RabbitMQ, port: int) -> None:
        self.folder = folder
        self.broker = broker
        self.ops = Ops(port)
        self.sent: list[str] = []
        self.expired: list[str] = []
        self._end: Callable[[], object] = lambda: None

    def requests_fail(self) -> None:
        with Requester(self.broker.url) as requester:
            for _ in range(3):
                requester.send(self._request("buggy"))
            assert {answer(reply)["status"] for reply in requester.collect(3)} == {"failed"}
        soon(lambda: self.broker.queue_depths("/")["session.create.dead"] == 3)

    def mended(self) -> None:
        (self.folder / "mended").touch()

    def requester_gone(self) -> None:
        before = self.ops.metric("session_worker_replies_undeliverable_total")
        with Requester(self.broker.url) as requester:
            requester.send(self._request(), reply_to="shop.replies")
        soon(lambda: self.ops.metric("session_worker_replies_undeliverable_total") > before)

    def requests_expire(self) -> None:
        with Requester(self.broker.url) as requester:
            requester.send(self._request(), expiration="0")
            assert code_of(requester.collect()[0]) == "expired"
        self.expired.append(self.sent[-1])

    def ledger_locked(self) -> None:
        self._end = lock_ledger(f"sqlite:///{self.folder / 'ledger.db'}")
        soon(lambda: "ledger" in self.ops.red(), 30)

    def alarm(self) -> None:
        self.over()
        self.broker.set_alarm(True)
        self._end = lambda: self.broker.set_alarm(False)

    def garbage(self) -> None:
        with Requester(self.broker.url) as requester:
            requester.send(b"{")
        soon(lambda: self.broker.queue_depths("/")["session.create.dead"] == 1)

    def queue_differs(self) -> None:
        """Somebody else has declared it."""
        name = "session.create.retry.30s"
        self.broker.delete_queue("/", name)
        with closing(pika.BlockingConnection(pika.URLParameters(self.broker.url))) as connection:
            arguments = {"x-queue-type": "quorum", "x-message-ttl": 31_000}
            connection.channel().queue_declare(name, durable=True, arguments=arguments)

    def over(self) -> None:
        """The last fault has an end, and the worker goes on."""
        self._end()
        self._end = lambda: None
        soon(self.ops.ready, 30)

    def _request(self, title: str | None = None) -> bytes:
        self.sent.append(str(uuid4()))
        return request(self.sent[-1], title)


@pytest.fixture
def database(postgresql: PostgreSQL) -> Iterator[str]:
    """The host, port and name of an empty database, made with its roles as docs/security.md says."""
    name = f"test_{uuid4().hex[:12]}"
    script = page_file(SECURITY, "roles.sql").replace("DATABASE sessions", f"DATABASE {name}")
    script = script.replace("-password", f"-{postgresql.password}")
    of_server, of_database = script.split("\\connect sessions\n")
    for statement in of_server.rstrip(";\n").split(";\n"):
        postgresql.execute(statement)
    postgresql.execute(of_database, name)
    yield f"127.0.0.1:{postgresql.port}/{name}"
    postgresql.dropdb(name)
    for role in ROLES:
        postgresql.execute(f"DROP ROLE {role}")


def page_file(page: Path, name: str) -> str:
    """A file that the reader has from a page."""
    (text,) = [block.text for block in blocks(page.read_text()) if block.options.get("file") == name]
    return text


def test_every_command_of_the_operations_page_does_what_it_says(
    own_rabbitmq: RabbitMQ, postgresql: PostgreSQL, database: str, tmp_path: Path
) -> None:
    """And the promise holds through all of it: one session for each request, in the ledger that is left."""
    folder, programs = tmp_path / "reader", tmp_path / "bin"
    for path in (folder / "shop", programs):
        path.mkdir(parents=True)
    (folder / "shop" / "sessions.py").write_text(HANDLER)
    (folder / "grants.sql").write_text(page_file(SECURITY, "grants.sql"))
    stand_ins.program(
        programs / "systemctl", f"PYTHONPATH={ROOT} exec {sys.executable} -m tests.support.systemctl"
    )
    stand_ins.fill(programs)
    own_rabbitmq.add_user("session_worker", f"worker-{postgresql.password}", "/", ".*", ".*", ".*")
    trouble = Trouble(folder, own_rabbitmq, free_port())
    port = trouble.ops.port
    replace = {
        "sqlite:////var/lib/session-worker/": f"sqlite:///{folder}/",
        "localhost:5672": f"127.0.0.1:{own_rabbitmq.port}",
        "localhost/sessions": database,
        "-password": f"-{postgresql.password}",
        # A bug is tried again for a quarter of an hour.
        "SESSION_WORKER_OPS_PORT=9464": f"SESSION_WORKER_OPS_PORT={port}\nSESSION_WORKER_MAX_ATTEMPTS=1",
        "localhost:9464": f"localhost:{port}",
    }
    # The page begins with symptoms: its worker has been installed already, as described further down.
    settings = page_file(PAGE, "worker.env")
    for old, new in replace.items():
        settings = settings.replace(old, new)
    (folder / "worker.env").write_text(settings)

    printed = follow(
        PAGE,
        folder,
        replace={"cd /var/lib/session-worker": "systemctl start session-worker", **replace},
        capture={"REQUEST_ID": r"\b([0-9a-f]{8}-[0-9a-f-]{27})\b"},
        env={
            **own_rabbitmq.control_environment,
            "PGPASSWORD": postgresql.password,
            "PATH": ":".join(
                [
                    str(programs),
                    *(str(path.parent) for path in (PROGRAM, own_rabbitmq._program, postgresql._psql)),
                    os.environ["PATH"],
                ]
            ),
        },
        meanwhile={
            "Dead letters": trouble.requests_fail,
            "When the cause is fixed": trouble.mended,
            "Answers do not arrive": trouble.requester_gone,
            "Requests expire": trouble.requests_expire,
            "The ledger is down or slow": trouble.ledger_locked,
            "The broker is down or blocked": trouble.alarm,
            "A queue grows": trouble.over,
            "The parking lot is full": trouble.garbage,
            "Changing queues": trouble.queue_differs,
        },
        elsewhere=ELSEWHERE,
    )

    assert "0 requests and 0 sessions were copied" not in printed
    left = postgresql.execute("SELECT request_id, status FROM requests", database.partition("/")[2])
    statuses = dict(line.split("|") for line in left.split())
    assert statuses.keys() >= set(trouble.sent)
    others = {request_id for request_id, status in statuses.items() if status != "completed"}
    assert others == set(trouble.expired)
    sessions = postgresql.execute("SELECT count(*) FROM sessions", database.partition("/")[2])
    assert int(sessions) == len(statuses) - len(others)
    with closing(sqlite3.connect(folder / "ledger.db")) as restored:
        known = {key for (key,) in restored.execute("SELECT request_id FROM requests")}
    assert known >= set(trouble.sent)
    assert not any(depth for name, depth in own_rabbitmq.queue_depths("/").items())


def test_no_command_of_the_operations_page_is_only_told_of() -> None:
    """What the running text names stands in a block as well."""
    page = PAGE.read_text()
    run = "\n".join(block.text for block in blocks(page))

    assert [command for command in mentions(page, PROGRAMS) if command not in run] == []


def test_systemd_gives_a_worker_the_time_to_finish() -> None:
    """The unit of the page reads the file of the page, and waits for the longest stop."""
    (text,) = [
        block.text for block in blocks(PAGE.read_text()) if block.options.get("file", "").endswith(".service")
    ]
    unit = configparser.ConfigParser()
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read_string(text)
    service = unit["Service"]

    assert service["EnvironmentFile"] == f"{service['WorkingDirectory']}/worker.env"
    assert service["ExecStart"].endswith("/session-worker run")
    grace = Settings.model_fields["shutdown_grace"].default
    assert float(service["TimeoutStopSec"]) > grace + SHUTDOWN_SECONDS + LAST_SECONDS
