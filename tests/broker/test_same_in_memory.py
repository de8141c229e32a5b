"""The worker of users' tests does with each message what a worker at a broker does with it."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import pytest

from session_contracts import CREATE_SESSION, Operation
from session_worker import App
from session_worker.testing import TestWorker
from tests.support.apps.shop import LOOK, ORDER, app
from tests.support.handlers.scripted import scripted
from tests.support.lab import request

if TYPE_CHECKING:
    from pathlib import Path

    from session_worker.ledger.reader import Entry
    from tests.support.lab import Lab

SETTINGS: dict[str, Any] = {
    "max_attempts": 2,
    "handler_timeout": 1,
    "max_body_bytes": 8192,
    "retry_delays": (1,),
}
"""Those of ``served``."""


Sent = tuple[Operation[Any, Any], bytes, dict[str, Any]]
"""A message: the operation whose queue it goes to, its body and its properties."""


def messages() -> dict[str, Sent]:
    """Each with a request id of its own, but for those that are there to have none or one that was used."""
    ids = {name: str(uuid4()) for name in ("plain", "header", "message", "late")}
    handled: dict[str, dict[str, Any]] = {
        "merge": {"do": "merge"},
        "fails once": {"fails": 1},
        "fails always": {"fails": 99},
        "exit": {"do": "exit"},
        "cancel": {"do": "cancel"},
        "hang": {"do": "hang"},
        "reject": {"do": "reject"},
        "set": {"do": "set"},
        "large": {"do": "large"},
    }
    without = json.loads(request())
    del without["request_id"]
    nameless = json.dumps(without).encode()
    given: dict[str, tuple[bytes, dict[str, Any]]] = {
        "plain": (request(ids["plain"]), {}),
        **{name: (request(title=name, **script), {}) for name, script in handled.items()},
        "replayed": (request(ids["plain"]), {}),
        "conflict": (request(ids["plain"], title="another"), {}),
        "id in a header": (nameless, {"headers": {"x-request-id": ids["header"]}}),
        "id of the message": (nameless, {"message_id": ids["message"]}),
        "no id": (nameless, {}),
        "late": (request(ids["late"]), {"expiration": "0", "timestamp": 1_700_000_000}),
        "no JSON": (b"\xff{", {"message_id": str(uuid4())}),
        "a list": (b"[]", {"message_id": str(uuid4())}),
        "wrong title": (request(str(uuid4()), title="x" * 201), {}),
        "wrong operation": (request().replace(b"create_session", b"close_session"), {}),
        "too large": (request(title="x", blob="x" * 9000), {"message_id": str(uuid4())}),
        "XML": (request(), {"content_type": "text/xml"}),
        "compressed": (request(), {"content_encoding": "gzip"}),
    }
    return {name: (CREATE_SESSION, *message) for name, message in given.items()}


def orders() -> dict[str, Sent]:
    """The same for the operations of an app: one with effects, and one that only reads."""

    def order(to: Operation[Any, Any] = ORDER, request_id: str = "", **fields: Any) -> Sent:
        whole = {"request_id": request_id or str(uuid4()), "user_id": "ada", "operation": to.name}
        return to, json.dumps(whole | {"payload": {}} | fields).encode(), {}

    used = str(uuid4())
    return {
        "plain": order(request_id=used),
        "fails once": order(payload={"fails": 1}),
        "fails always": order(payload={"fails": 99}),
        "unknown fields": order(payload={"size": 5, "deep": {"er": [1]}}),
        "replayed": order(request_id=used),
        "conflict": order(request_id=used, payload={"stubborn": True}),
        "late": (*order()[:2], {"expiration": "0"}),
        "wrong field": order(payload={"gate": 5}),
        "no payload": order(payload=None),
        "NUL": order(payload={"gate": "\0"}),
        "infinite": order(payload={"fails": float("inf")}),
        "unknown session": order(session_id="ts_261122_none"),
        "no session id": order(session_id="none"),
        "read": order(LOOK),
        "late read": (*order(LOOK)[:2], {"expiration": "0"}),
        "wrong read": order(LOOK, payload={"fails": "no"}),
        "read of another": order(LOOK, operation="order"),
    }


@pytest.fixture
def notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Where handlers write down what they do, here and in a worker's process."""
    names = {name: str(tmp_path / name) for name in ("TEST_RUNS", "TEST_NOTES")}
    for name, file in names.items():
        monkeypatch.setenv(name, file)
    return names


@pytest.mark.usefixtures("notes")
def test_every_request_for_a_session_ends_alike(served: Lab) -> None:
    """The same reply, entry, and dead letter, but for times, tokens, and the worker's name."""
    hooked = App()
    hooked.on_create_session(scripted)
    ends = compare(served, hooked, messages())
    assert len(ends) >= 12, ends


def test_every_request_for_a_users_operation_ends_alike(lab: Lab, notes: dict[str, str]) -> None:
    lab.worker(env=notes, handler="off", app="tests.support.apps.shop:app", **as_variables(SETTINGS))
    ends = compare(lab, app, orders())
    assert len(ends) >= 6, ends


def as_variables(settings: dict[str, Any]) -> dict[str, Any]:
    return settings | {"retry_delays": ",".join(map(str, settings["retry_delays"]))}


def compare(lab: Lab, app: App[Any], given: dict[str, Sent]) -> set[str | None]:
    """Send the messages to both workers; return the error codes of the answers, which they share."""
    in_memory = asyncio.run(ended_in_memory(app, given))
    letters = Counter(queue for *_, queue, _ in in_memory["letters"].values())
    assert ended_at_a_broker(lab, given, letters) == in_memory
    return {each["document"]["metadata"].get("error_code") for each in in_memory["replies"].values()}


async def ended_in_memory(app: App[Any], given: dict[str, Sent]) -> dict[str, Any]:
    async with TestWorker(app, hang_after=0.05, **SETTINGS) as worker:
        sent = {
            name: await worker.send(
                operation, body, **{"content_type": None, "correlation_id": name, **properties}
            )
            for name, (operation, body, properties) in given.items()
        }
        await worker.advance(30)
        replies = {name: each.replies for name, each in sent.items()}
        return {
            "replies": {
                name: {"replayed": reply.replayed, "document": plain(reply.body)}
                for name, (reply,) in replies.items()
            },
            "entries": {name: facts(worker.entry(id_of(reply.body))) for name, (reply,) in replies.items()},
            "letters": {
                letter.delivery.correlation_id: (
                    letter.code,
                    letter.exception_type,
                    letter.message,
                    letter.attempts,
                    letter.queue,
                    letter.delivery.body,
                )
                for letter in worker.dead_letters
            },
        }


def ended_at_a_broker(lab: Lab, given: dict[str, Sent], letters: Counter[str | None]) -> dict[str, Any]:
    with lab.requester() as requester:
        for name, (operation, body, properties) in given.items():
            requester.send(body, routing_key=f"session.{operation.key}", correlation_id=name, **properties)
            if name == "plain":
                requester.collect()  # it has its outcome before it comes again
        replies = {each.properties.correlation_id: each for each in requester.collect(len(given), 30)}
    taken = [each for queue, count in letters.items() for each in lab.take(f"{queue}.dead", count)]
    return {
        "replies": {
            name: {
                "replayed": bool(replies[name].headers.get("x-idempotent-replayed")),
                "document": plain(replies[name].body),
            }
            for name in given
        },
        "entries": {name: facts(lab.find(id_of(replies[name].body))) for name in given},
        "letters": {
            each.properties.correlation_id: (
                each.headers.get("x-error-code"),
                each.headers.get("x-exception-type"),
                each.headers.get("x-exception-message"),
                each.headers.get("x-attempts"),
                each.headers.get("x-original-queue"),
                each.body,
            )
            for each in taken
        },
    }


def plain(body: bytes) -> dict[str, Any]:
    """A response without what no two workers have in common."""
    document: dict[str, Any] = json.loads(body)
    del document["timestamp"]
    payload = document["payload"] or {}
    document["payload"] = {
        name: value[:3] if name == "session_id" else value
        for name, value in payload.items()
        if name not in {"created_at", "pid", "thread", "shelf"}
    }
    for fact in ("worker_id", "processing_ms"):
        del document["metadata"][fact]
    return document


def id_of(body: bytes) -> str:
    return str(UUID(json.loads(body)["request_id"]))


def facts(entry: Entry | None) -> object:
    """An entry without what no two workers have in common."""
    if entry is None:
        return None
    history = [(each["status"], each["attempt"], each["detail"]) for each in entry.history]
    return entry.status, entry.attempt, entry.error_code, entry.error, entry.title, history
