"""An app of somebody else's, with the libraries as they have them: from the wheels.

Its operations are asked for by our client, by pika with JSON that nobody checked, and by amqplib from Node.
"""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import jsonschema
import pytest

from tests.packaging.conftest import clean, done
from tests.support.requester import RawReply, Requester

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.worker_process import WorkerProcess

CONTRACTS = """
from datetime import date

from pydantic import BaseModel, Field

from session_contracts import Operation


class BookRoom(BaseModel):
    room: str = Field(min_length=1, max_length=40)
    day: date
    seats: int = Field(ge=1)


class RoomBooked(BaseModel):
    booking: str
    in_thread: bool


BOOK = Operation("book_room", BookRoom, RoomBooked)
FREE = Operation("free_room", BookRoom, RoomBooked)
"""
APP = """
import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from hotel_contracts import BOOK, FREE, BookRoom, RoomBooked
from session_contracts import BaseRequest
from session_worker import App, Context


class Hotel:
    def __init__(self, journal: Path) -> None:
        self.journal = journal

    def enter(self, request: BaseRequest[BookRoom]) -> RoomBooked:
        with self.journal.open("a") as file:
            file.write(f"{request.operation} {request.request_id}\\\\n")
        in_thread = threading.current_thread() is not threading.main_thread()
        return RoomBooked(booking=f"{request.payload.room} on {request.payload.day}", in_thread=in_thread)


@asynccontextmanager
async def resources() -> AsyncIterator[Hotel]:
    yield Hotel(Path("journal.txt"))


app = App(lifespan=resources)


@app.operation(BOOK)
async def book(request: BaseRequest[BookRoom], context: Context[Hotel]) -> RoomBooked:
    await asyncio.sleep(0.01)
    return context.resources.enter(request)


@app.operation(FREE)
def free(request: BaseRequest[BookRoom], context: Context[Hotel]) -> RoomBooked:
    return context.resources.enter(request)
""".replace("\\\\n", "\\n")
CALLER = """
import asyncio
import os
from datetime import date

from hotel_contracts import BOOK, FREE, BookRoom
from session_client import SessionClient


async def main() -> None:
    async with SessionClient(os.environ["SESSION_WORKER_AMQP_URL"]) as client:
        for operation in BOOK, FREE:
            asked = BookRoom(room="blue", day=date(2026, 1, 2), seats=2)
            response = await client.call(operation, asked, user_id="ada@example.com")
            print(response.model_dump_json())


asyncio.run(main())
"""
NODE = """
import amqp from 'amqplib';
import { randomUUID } from 'node:crypto';

const [url, key, body] = process.argv.slice(2);
const connection = await amqp.connect(url);
const channel = await connection.createChannel();
await channel.consume('amq.rabbitmq.reply-to', async (message) => {
  console.log(message.content.toString());
  await connection.close();
}, { noAck: true });
channel.publish('session', key, Buffer.from(body), {
  replyTo: 'amq.rabbitmq.reply-to', correlationId: randomUUID(), contentType: 'application/json',
});
"""
OPERATIONS = ("book_room", "free_room")
BOOKING = {"room": "blue", "day": "2026-01-02", "seats": 2}


@pytest.fixture
def hotel(
    python: Path,
    amqp_url: str,
    ledger_url: str,
    tmp_path: Path,
    worker_process: Callable[..., WorkerProcess],
) -> Path:
    """The folder of an app that `session-worker run` serves."""
    folder = tmp_path / "hotel"
    folder.mkdir()
    (folder / "hotel_contracts.py").write_text(CONTRACTS)
    (folder / "hotel.py").write_text(APP)
    (folder / "caller.py").write_text(CALLER)
    command = [python.with_name("session-worker"), "run", "hotel:app"]
    worker_process(command=command, folder=folder, amqp_url=amqp_url, ledger_url=ledger_url, migrate=True)
    return folder


@pytest.fixture
def requester(hotel: Path, amqp_url: str) -> Iterator[Requester]:
    with Requester(amqp_url) as requester:
        yield requester


@pytest.fixture
def schema(hotel: Path, python: Path) -> Callable[[str], Any]:
    """The published schema of an operation's response."""

    def of(operation: str) -> Any:
        command = [python.with_name("session-worker"), "schema", "response", "--app", "hotel:app"]
        return json.loads(done(*command, "--operation", operation, cwd=hotel))

    return of


def body(operation: str, payload: object = BOOKING, request_id: str | None = None) -> bytes:
    asked = {"request_id": request_id or str(uuid4()), "user_id": "ada@example.com", "payload": payload}
    return json.dumps(asked | {"operation": operation}).encode()


def read(reply: RawReply) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(reply.body)
    return found


def test_operations_are_called_by_the_client_and_by_pika_and_answered_by_their_schemas(
    hotel: Path, python: Path, amqp_url: str, requester: Requester, schema: Callable[[str], Any]
) -> None:
    """An async function and a plain one, which runs in a thread, with resources that they share."""
    called = done(python, "caller.py", cwd=hotel, env=clean(SESSION_WORKER_AMQP_URL=amqp_url)).splitlines()
    asked = [read(requester.ask(body(name), routing_key=name, exchange="session")) for name in OPERATIONS]
    for name, answers in zip(OPERATIONS, zip(map(json.loads, called), asked, strict=True), strict=True):
        for answer in answers:
            jsonschema.validate(answer, schema(name))
            assert answer["status"] == "completed"
            assert answer["payload"] == {"booking": "blue on 2026-01-02", "in_thread": name == "free_room"}


@pytest.mark.parametrize(
    ("payload", "error"),
    [
        (BOOKING | {"seats": 0}, "payload.seats: must be at least 1"),
        (BOOKING | {"day": "soon"}, "payload.day: "),
        ({"room": "blue"}, "payload.day: is required; payload.seats: is required"),
        (BOOKING | {"room": "blue\0"}, "payload.room: must not hold a NUL character"),
        ("blue", "payload: must be an object"),
    ],
)
def test_wrong_payloads_are_refused_with_the_fields_name(
    hotel: Path,
    requester: Requester,
    schema: Callable[[str], Any],
    payload: object,
    error: str,
) -> None:
    answer = read(requester.ask(body("book_room", payload), routing_key="session.book_room"))
    jsonschema.validate(answer, schema("book_room"))
    assert (answer["status"], answer["payload"]) == ("failed", None)
    assert answer["error"].startswith(error)
    assert not (hotel / "journal.txt").exists()


@pytest.mark.parametrize("operation", OPERATIONS)
def test_50_duplicates_have_one_effect_and_equal_answers(
    hotel: Path, requester: Requester, operation: str
) -> None:
    request_id = str(uuid4())
    for _ in range(50):
        requester.send(body(operation, request_id=request_id), routing_key=f"session.{operation}")
    replies = requester.collect(50, deadline=60)
    assert len({reply.body for reply in replies}) == 1
    done_once = Counter((hotel / "journal.txt").read_text().splitlines())
    assert done_once == {f"{operation} {request_id}": 1}


def test_an_operation_is_called_from_node_by_amqplib(
    hotel: Path, amqp_url: str, amqplib: Path, schema: Callable[[str], Any]
) -> None:
    program = hotel / "ask.mjs"
    program.write_text(NODE)
    (hotel / "node_modules").symlink_to(amqplib / "node_modules")
    command = ["node", program.name, amqp_url, "book_room", body("book_room").decode()]
    ran = subprocess.run(command, cwd=hotel, capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 0, ran.stderr
    answer = json.loads(ran.stdout)
    jsonschema.validate(answer, schema("book_room"))
    assert answer["payload"]["booking"] == "blue on 2026-01-02"
