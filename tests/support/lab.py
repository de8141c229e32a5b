"""Workers, their ledger and their queues, as these tests look at them: from outside."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections import Counter
from contextlib import closing, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import jsonschema
import pika

from session_worker.ledger import open_reader
from tests.support.requester import RawReply, Requester
from tests.support.waiting import soon
from tests.support.worker_process import WorkerProcess

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from session_worker.ledger.reader import Entry
    from tests.support.external_rabbitmq import ExternalRabbitMQ
    from tests.support.servers import RabbitMQ

    Broker = RabbitMQ | ExternalRabbitMQ

ROOT = Path(__file__).resolve().parents[2]
HANDLER = "tests.support.handlers.scripted:scripted"
NIL = "00000000-0000-0000-0000-000000000000"


def request(request_id: str | None = None, title: str | None = None, **script: object) -> bytes:
    """A request's body as any requester may write it; `script` tells the handler what to do."""
    return json.dumps(
        {
            "request_id": request_id or str(uuid4()),
            "user_id": "ada@example.com",
            "operation": "create_session",
            "payload": {} if title is None else {"title": title},
            "metadata": script,
        }
    ).encode()


def answer(reply: RawReply) -> dict[str, Any]:
    """An answer's body, which fits the published schema."""
    document = json.loads(reply.body)
    _schema().validate(document)
    assert isinstance(document, dict)
    return document


def code_of(reply: RawReply) -> str | None:
    """The error code of an answer; None for a completed one."""
    document = answer(reply)
    code = document["metadata"].get("error_code")
    assert (document["status"] == "completed") == (code is None)
    return None if code is None else str(code)


@cache
def _schema() -> jsonschema.Draft202012Validator:
    text = (ROOT / "tests" / "CreateSessionResponse.schema.json").read_text()
    return jsonschema.Draft202012Validator(json.loads(text))


class Lab:
    """One vhost with one ledger and the workers on them; `runs` tells what the handlers did."""

    def __init__(self, broker: Broker, vhost: str, ledger_url: str, folder: Path) -> None:
        self.broker = broker
        self.vhost = vhost
        self.url = broker.vhost_url(vhost)
        self.ledger_url = ledger_url
        self.folder = folder
        self.gate = folder / f"gate-{uuid4().hex}"
        self.workers: list[WorkerProcess] = []
        self._runs = folder / "runs"

    def worker(
        self, *, wait: bool = True, env: dict[str, str] | None = None, **settings: object
    ) -> WorkerProcess:
        """Start a worker with the scripted handler; `settings` win over quick retries and short times."""
        given: dict[str, Any] = {
            "amqp_url": self.url,
            "ledger_url": self.ledger_url,
            "handler": HANDLER,
            "retry_delays": "1",
            "holder_timeout": 2,
            "shutdown_grace": 5,
        } | settings
        needed = {"PYTHONPATH": str(ROOT), "TEST_RUNS": str(self._runs)}
        worker = WorkerProcess(env=needed | (env or {}), folder=self.folder, **given)
        self.workers.append(worker)
        if wait:
            worker.wait_up()
        return worker

    def declare(self, **settings: Any) -> None:
        """Have exchange and queues declared by a worker that is gone afterwards."""
        worker = self.worker(**settings)
        worker.terminate()
        assert worker.wait() == 0

    def requester(self, **options: Any) -> Requester:
        return Requester(self.url, **options)

    def runs(self) -> Counter[str]:
        """How often the handler ran for each request id."""
        if not self._runs.exists():
            return Counter()
        return Counter(line.split()[0] for line in self._runs.read_text().splitlines())

    def running(self, count: int) -> None:
        """Wait until handlers have begun so many requests."""
        soon(lambda: len(self.runs()) >= count, 30)

    def open_gate(self) -> None:
        self.gate.touch()

    def find(self, request_id: str) -> Entry | None:
        """What the ledger says of a request; None while it does not know it."""
        return asyncio.run(self._find([request_id]))[0]

    def entry(self, request_id: str) -> Entry:
        """What the ledger says of a request it knows."""
        return self.entries([request_id])[0]

    def entries(self, request_ids: list[str]) -> list[Entry]:
        found = asyncio.run(self._find(request_ids))
        missing = [id_ for id_, entry in zip(request_ids, found, strict=True) if entry is None]
        assert not missing, f"unknown to the ledger: {missing}"
        return [entry for entry in found if entry is not None]

    def noted(self, request_id: str, reply: str) -> None:
        """Wait until the ledger says so of a request's reply."""
        soon(lambda: (entry := self.find(request_id)) is not None and entry.reply == reply)

    def sessions(self) -> int:
        """Rows in `sessions`."""
        return asyncio.run(self._count())

    async def _find(self, request_ids: list[str]) -> list[Entry | None]:
        reader = open_reader(self.ledger_url)
        await reader.open()
        try:
            return [await reader.get(UUID(request_id)) for request_id in request_ids]
        finally:
            await reader.close()

    async def _count(self) -> int:
        reader = open_reader(self.ledger_url)
        await reader.open()
        try:
            return await reader.count_sessions()
        finally:
            await reader.close()

    def depth(self, queue: str) -> int:
        return self.broker.queue_depths(self.vhost).get(queue, 0)

    def holds(self, queue: str, count: int) -> None:
        """Wait until a queue holds so many messages; some brokers know it only after seconds."""
        soon(lambda: self.depth(queue) == count)

    def drop_connections(self) -> None:
        """Close every connection to the vhost, as an operator does; some brokers list new ones late."""

        def dropped() -> bool:
            with suppress(OSError):  # one of them was closed just now
                return self.broker.close_connections(self.vhost) > 0
            return False

        soon(dropped)

    def quiet(self, *but: str, deadline: float = 15.0) -> None:
        """Wait until no queue of the worker's holds anything, acknowledged all; `but` are not looked at."""

        def empty() -> bool:
            depths = self.broker.queue_depths(self.vhost)
            return not any(
                depth
                for name, depth in depths.items()
                if name.startswith("session.") and name not in {"session.replies", *but}
            )

        try:
            soon(empty, deadline)
        except AssertionError:
            raise AssertionError(f"not empty: {self.broker.queue_depths(self.vhost)}") from None

    def take(self, queue: str, count: int = 1, deadline: float = 15.0) -> list[RawReply]:
        """Take messages from a queue as they come."""
        with closing(pika.BlockingConnection(pika.URLParameters(self.url))) as connection:
            channel = connection.channel()
            taken: list[RawReply] = []

            def all_there() -> bool:
                while len(taken) < count:
                    _, properties, body = channel.basic_get(queue, auto_ack=True)
                    if properties is None:
                        return False
                    taken.append(RawReply(body, properties))
                return True

            soon(all_there, deadline)
            return taken

    def close(self) -> None:
        for worker in self.workers:
            worker.close()


def send(lab: Lab, count: int, **script: Any) -> list[str]:
    """Requests that are answered on the default reply queue; their ids."""
    request_ids = [str(uuid4()) for _ in range(count)]
    with lab.requester() as requester:
        for request_id in request_ids:
            requester.send(request(request_id, **script), reply_to=None)
    return request_ids


@contextmanager
def open_lab(broker: Broker, ledger_url: str, folder: Path) -> Iterator[Lab]:
    """A lab with a vhost of its own; its workers are gone afterwards."""
    vhost = f"test-{uuid4().hex[:12]}"
    broker.vhost(vhost)
    lab = Lab(broker, vhost, ledger_url, folder)
    try:
        yield lab
    finally:
        lab.close()
        broker.delete_vhost(vhost)


def lock_ledger(ledger_url: str) -> Callable[[], None]:
    """Lock a SQLite ledger as another process would; call the result to unlock it."""
    connection = sqlite3.connect(ledger_url.removeprefix("sqlite:///"), isolation_level=None)
    connection.execute("PRAGMA busy_timeout = 10000")
    connection.execute("BEGIN IMMEDIATE")

    def unlock() -> None:
        connection.execute("ROLLBACK")
        connection.close()

    return unlock
