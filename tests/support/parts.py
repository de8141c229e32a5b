"""What the worker's unit tests are built from: deliveries, requests, settings, a receipt that keeps count."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from session_contracts import DEFAULT_REPLY_TO_ALLOW, CreateSessionPayload, CreateSessionRequest, Names
from session_worker.ledger.protocol import Claimed
from session_worker.messages.delivery import Delivery
from session_worker.operations.app import App
from session_worker.operations.binding import Binding
from session_worker.operations.built_in import CREATE
from session_worker.operations.handler import AnyHandler, Context
from session_worker.requests.parse import RequestParser
from session_worker.requests.request import Request
from session_worker.settings import Settings

NAMES = Names()
RECEIVED_AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
SESSION_ID = "ts_260102_abcdefgh1234"
CASEFILE_ID = "cf_251013_abc123"


class CountingReceipt:
    """A receipt that remembers how its delivery was settled."""

    def __init__(self, *, valid: bool = True) -> None:
        self.valid = valid
        self.settled: list[str] = []

    def ack(self) -> None:
        self.settled.append("ack")

    def requeue(self) -> None:
        self.settled.append("requeue")


def body(request_id: UUID | str | None = None, /, **fields: Any) -> bytes:
    """A valid request body, without ``request_id`` unless it is given."""
    document: dict[str, Any] = {
        "user_id": "user@example.com",
        "operation": "create_session",
        "payload": {"casefile_id": CASEFILE_ID, "title": "Search"},
    }
    if request_id is not None:
        document["request_id"] = str(request_id)
    return json.dumps(document | fields).encode()


def delivery(content: bytes | None = None, **fields: Any) -> Delivery:
    """A delivery of ``content``, or of a new request."""
    given: dict[str, Any] = {"receipt": CountingReceipt(), "queue": NAMES.work, **fields}
    return Delivery(body=body(uuid4()) if content is None else content, **given)


def parser(
    allow: str = DEFAULT_REPLY_TO_ALLOW, *, prefix: str = "session", limit: int = 4096
) -> RequestParser:
    return RequestParser(CREATE, Names(prefix), max_body_bytes=limit, reply_to_allow=allow)


def model(**fields: Any) -> CreateSessionRequest:
    return CreateSessionRequest(
        **{
            "request_id": uuid4(),
            "user_id": "user@example.com",
            "payload": CreateSessionPayload(casefile_id=CASEFILE_ID),
        }
        | fields
    )


def request(**fields: Any) -> Request:
    """A request as the parser makes it."""
    parsed = parser().parse(delivery(**fields))
    assert isinstance(parsed, Request)
    return parsed


def hooked(handler: AnyHandler) -> Binding:
    """``create_session`` with a hook of a user's."""
    return replace(CREATE, handler=handler, built_in=False)


def app_of(hook: AnyHandler) -> App:
    """An app that asks ``hook`` before a session is created."""
    app = App()
    app.on_create_session(hook)
    return app


def claimed(attempt: int = 1, crashes: int = 0, *, expired: bool = False) -> Claimed:
    return Claimed(SESSION_ID, attempt, crashes, RECEIVED_AT, expired)


def context() -> Context:
    return Context(
        SESSION_ID, uuid4(), attempt=1, deadline=datetime.now(UTC) + timedelta(seconds=30), resources=None
    )


def worker_settings(**fields: Any) -> Settings:
    """Settings that look at no environment: everything unnamed has its default."""
    return Settings.model_construct(
        **{name: field.default for name, field in Settings.model_fields.items()} | fields
    )
