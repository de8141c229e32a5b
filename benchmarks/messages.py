"""One and the same request in everybody's own format, and what everybody's answer must say."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from pamqp import commands

from benchmarks.wire import Message, Reply
from session_contracts import new_request_id

if TYPE_CHECKING:
    from collections.abc import Callable

PERSISTENT: Final = 2
REPLIES: Final = "bench.replies"
USER: Final = "benchmark@example.com"
TITLE: Final = "Search of the east wing"


@dataclass(frozen=True, slots=True)
class Request:
    """A create-session request: its id, and its JSON as an object."""

    id: str
    content: dict[str, Any]


def new_request(title: str | None = None, new_id: Callable[[], UUID] = new_request_id) -> Request:
    """A request with an id of its own."""
    number = str(new_id())
    return Request(
        number,
        {
            "request_id": number,
            "user_id": USER,
            "operation": "create_session",
            "payload": {"casefile_id": "cf_251013_abc123", "title": title or TITLE},
            "timestamp": "2025-10-13T14:30:00+00:00",
            "metadata": {"source": "benchmark"},
        },
    )


def new_read(session_id: str) -> Request:
    """A request to read a session."""
    number = str(new_request_id())
    content = {
        "request_id": number,
        "user_id": USER,
        "operation": "get_session",
        "payload": {"session_id": session_id},
        "timestamp": "2025-10-13T14:30:00+00:00",
    }
    return Request(number, content)


def session_of(reply: Reply) -> str:
    """The session that an answer is about."""
    return str(json.loads(reply.body)["payload"]["session_id"])


class Json:
    """Plain JSON with `reply_to` and `correlation_id`; the answer is the request again."""

    def __init__(self, queue: str, *, exchange: str = "", message_type: str | None = None) -> None:
        self._queue = queue
        self._exchange = exchange
        self._type = message_type

    def encode(self, request: Request) -> Message:
        return Message(
            self._queue,
            self._properties(request, message_type=self._type),
            _dump(request.content),
            self._exchange,
        )

    def id_of(self, reply: Reply) -> str:
        """The id of the request that is answered."""
        return reply.correlation_id

    def is_right(self, request: Request, reply: Reply) -> bool:
        return bool(json.loads(reply.body) == request.content)

    def _properties(
        self, request: Request, *, message_type: str | None = None, headers: dict[str, Any] | None = None
    ) -> commands.Basic.Properties:
        return commands.Basic.Properties(
            content_type="application/json",
            content_encoding="utf-8",
            headers=headers,
            delivery_mode=PERSISTENT,
            correlation_id=request.id,
            reply_to=REPLIES,
            message_id=request.id,
            message_type=message_type,
        )


class Session(Json):
    """Plain JSON as well; the answer says that the session was created."""

    def is_right(self, request: Request, reply: Reply) -> bool:
        answer = json.loads(reply.body)
        return bool(
            answer["status"] == "completed"
            and answer["request_id"] == request.id
            and answer["payload"]["session_id"].startswith("ts_")
        )


class Reading(Json):
    """Plain JSON as well; the answer is the session that was asked for."""

    def is_right(self, request: Request, reply: Reply) -> bool:
        answer = json.loads(reply.body)
        return bool(
            answer["status"] == "completed"
            and answer["request_id"] == request.id
            and answer["payload"]["session_id"] == request.content["payload"]["session_id"]
        )


class AioPikaRpc(Json):
    """`aio_pika.patterns.JsonRPC`: the keyword arguments of a call."""

    def encode(self, request: Request) -> Message:
        body = _dump({"request": request.content})
        return Message(self._queue, self._properties(request, message_type="call"), body)


class Celery(Json):
    """Celery's message protocol, version 2."""

    def encode(self, request: Request) -> Message:
        headers = {
            "lang": "py",
            "task": "echo",
            "id": request.id,
            "root_id": request.id,
            "parent_id": None,
            "group": None,
            "ignore_result": False,
        }
        body = _dump(
            [[request.content], {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}]
        )
        return Message(self._queue, self._properties(request, headers=headers), body)

    def is_right(self, request: Request, reply: Reply) -> bool:
        answer = json.loads(reply.body)
        return bool(answer["status"] == "SUCCESS" and answer["result"] == request.content)


class Dramatiq(Json):
    """A message to the actor `echo`, and one to the actor `reply` with the first and its result."""

    def encode(self, request: Request) -> Message:
        body = {
            "queue_name": self._queue,
            "actor_name": "echo",
            "args": [request.content],
            "kwargs": {},
            "options": {},
            "message_id": request.id,
            "message_timestamp": int(time.time() * 1000),
        }
        return Message(self._queue, self._properties(request), _dump(body))

    def id_of(self, reply: Reply) -> str:
        return str(UUID(json.loads(reply.body)["args"][0]["message_id"]))

    def is_right(self, request: Request, reply: Reply) -> bool:
        return bool(json.loads(reply.body)["args"][1] == request.content)


class Taskiq(Json):
    """taskiq's JSON message; the answer is its JSON result."""

    def encode(self, request: Request) -> Message:
        body = {
            "task_id": request.id,
            "task_name": "echo",
            "labels": {},
            "labels_types": {},
            "args": [request.content],
            "kwargs": {},
        }
        headers = {"task_id": request.id, "task_name": "echo"}
        return Message(self._queue, self._properties(request, headers=headers), _dump(body))

    def is_right(self, request: Request, reply: Reply) -> bool:
        answer = json.loads(reply.body)
        return bool(not answer["is_err"] and answer["return_value"] == request.content)


def _dump(content: Any) -> bytes:
    return json.dumps(content, separators=(",", ":")).encode()
