"""What the fault tests share: requests to send, a requester that keeps the book, and workers."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from uuid import uuid4

from session_contracts import CREATE_SESSION, Names
from session_worker.broker.connection import Connection
from session_worker.broker.topology import Topology
from tests.faults import audit
from tests.faults.book import Book, Sending
from tests.support.apps.titled import ACT
from tests.support.requester import Requester
from tests.support.waiting import soon
from tests.support.worker_process import WorkerProcess

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.support.external_rabbitmq import ExternalRabbitMQ
    from tests.support.servers import RabbitMQ

ROOT = Path(__file__).resolve().parents[2]
NAMES = Names()
KEYS = {operation.name: operation.key for operation in (CREATE_SESSION, ACT)}
"""The operations that are put to the test, one of them a user's, by their routing keys."""
WORKER = {
    "app": "tests.support.apps.titled:app",
    "holder_timeout": 1,
    "retry_delays": "1",
    "shutdown_grace": 5,
}
PATH = {"PYTHONPATH": str(ROOT)}


def crashing(step: str, count: int = 1) -> tuple[str, ...]:
    """The command of a worker that kills itself at ``step``."""
    return (sys.executable, "-m", "tests.faults.crashing_worker", "--at", step, "--count", str(count))


def start_worker(folder: Path, **settings: Any) -> WorkerProcess:
    """A worker with the scripted handler and times as short as they can be; also takes ``command``."""
    return WorkerProcess(folder=folder, env=PATH, **{**WORKER, **settings})


async def declare_on(url: str, retry_delays: tuple[int, ...] = (1,)) -> None:
    """Declare the queues, so that requests can wait in them before a worker runs."""
    connection = await Connection.open([url], "test")
    for key in KEYS.values():
        await Topology.of(NAMES.of(key), retry_delays).apply(connection)
    await connection.close()


def declare(url: str) -> None:
    """``declare_on`` for tests without an event loop."""
    asyncio.run(declare_on(url))


def plan(title: str | None, request_id: str | None = None, operation: str = "create_session") -> Sending:
    """A request whose handler does what ``title`` says, and what must come of it."""
    act, _, value = (title or "").partition(":")
    outcomes = {"reject": "rejected", "permanent": "handler_failed", "kill": "crashed_worker"}
    request_id = request_id or str(uuid4())
    content = {"user_id": "ada@example.com", "payload": {} if title is None else {"title": title}}
    body = {"request_id": request_id, "operation": operation, **content}
    return Sending(
        correlation_id=uuid4().hex,
        request_id=request_id,
        content=json.dumps(content, sort_keys=True),
        outcomes=frozenset({outcomes.get(act, "completed")}),
        attempts=int(value) + 1 if act == "fail" else 2 if act == "exit" else 1,
        body=json.dumps(body).encode(),
        key=KEYS[operation],
    )


def garbage(body: bytes = b"{no json") -> Sending:
    """A message that is no request."""
    return Sending(uuid4().hex, None, None, frozenset({"unreadable"}), body=body)


class Scribe:
    """A requester that enters in a book what it sends and what comes back."""

    def __init__(self, url: str) -> None:
        self.book = Book()
        self._requester = Requester(url)
        self._entered = 0

    def send(self, sending: Sending, **properties: Any) -> Sending:
        self.book.send(sending)
        key = NAMES.of(sending.key).work
        self._requester.send(
            sending.body, routing_key=key, correlation_id=sending.correlation_id, **properties
        )
        sending.confirmed = True
        return sending

    def send_all(self, sendings: Iterable[Sending]) -> None:
        for sending in sendings:
            self.send(sending)

    def read(self) -> None:
        """Enter the answers that have come."""
        self._requester.process(0.05)
        for reply in self._requester.replies[self._entered :]:
            replayed = bool(reply.headers.get("x-idempotent-replayed"))
            self.book.receive(reply.properties.correlation_id, reply.body, replayed=replayed)
        self._entered = len(self._requester.replies)

    def wait_for_answers(self, deadline: float = 30.0) -> None:
        """Until everything sent is answered."""

        def answered() -> bool:
            self.read()
            return not self.book.unanswered

        soon(answered, deadline)

    def parked(self) -> list[audit.Letter]:
        """What is on the parking lot, taken from it."""
        letters = []
        for key in KEYS.values():
            lot = NAMES.of(key).dead
            while (got := self._requester.channel.basic_get(lot, auto_ack=True))[0] is not None:
                _, properties, body = got
                letters.append(audit.Letter(dict(properties.headers or {}), properties.correlation_id, body))
        return letters

    def waiting(self, queue: str) -> int:
        """Messages of a queue that are out to nobody, as of now."""
        return int(self._requester.channel.queue_declare(queue, passive=True).method.message_count)

    def close(self) -> None:
        self._requester.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def settled(broker: RabbitMQ | ExternalRabbitMQ, vhost: str) -> bool:
    """Whether nothing is left in the worker's queues, the parking lot aside."""
    depths = broker.queue_depths(vhost)
    installed = [NAMES.of(key) for key in KEYS.values()]
    return not any(
        count
        for name, count in depths.items()
        for names in installed
        if name.startswith(names.work) and name != names.dead
    )


def at_rest(broker: RabbitMQ | ExternalRabbitMQ, vhost: str, scribe: Scribe, ledger_url: str) -> bool:
    """Whether everything is answered, settled and recorded. A broker's figures may be seconds old: the books
    say more."""
    scribe.read()
    if scribe.book.unanswered or not settled(broker, vhost):
        return False
    try:
        audit.check(scribe.book, asyncio.run(audit.read(ledger_url)))
    except audit.AuditError:
        return False
    return True


def check(scribe: Scribe, ledger_url: str, *, doubles: int = 0) -> audit.Ledger:
    """Audit everything; ``doubles`` copies on the parking lot at the most are there twice."""
    scribe.read()
    ledger = asyncio.run(audit.read(ledger_url))
    audit.check(scribe.book, ledger)
    audit.check_parked(scribe.book, ledger, scribe.parked(), doubles)
    return ledger
