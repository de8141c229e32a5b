"""The worker of users' tests does with each message what a worker at a broker does with it."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

from session_contracts import CREATE_SESSION
from session_worker import App
from session_worker.testing import TestWorker
from tests.support.handlers.scripted import scripted
from tests.support.lab import request

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from session_worker.ledger.reader import Entry
    from tests.support.lab import Lab

SETTINGS: dict[str, Any] = {
    "max_attempts": 2,
    "handler_timeout": 1,
    "max_body_bytes": 8192,
    "retry_delays": (1,),
}
"""Those of ``served``."""


def messages() -> dict[str, tuple[bytes, dict[str, Any]]]:
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
    return {
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


def test_every_message_ends_alike(served: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same reply, entry, and dead letter, but for times, tokens, and the worker's name."""
    monkeypatch.setenv("TEST_RUNS", str(tmp_path / "runs"))
    given = messages()

    in_memory = asyncio.run(ended_in_memory(given))
    at_a_broker = ended_at_a_broker(served, given, letters=len(in_memory["letters"]))

    assert in_memory == at_a_broker
    codes = {each["document"]["metadata"].get("error_code") for each in in_memory["replies"].values()}
    assert len(codes) >= 12, codes  # the messages do not all end in one way


async def ended_in_memory(given: dict[str, tuple[bytes, dict[str, Any]]]) -> dict[str, Any]:
    app = App()
    app.on_create_session(scripted)
    async with TestWorker(app, hang_after=0.05, **SETTINGS) as worker:
        sent = {
            name: await worker.send(
                CREATE_SESSION, body, **{"content_type": None, "correlation_id": name, **properties}
            )
            for name, (body, properties) in given.items()
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


def ended_at_a_broker(
    lab: Lab, given: dict[str, tuple[bytes, dict[str, Any]]], *, letters: int
) -> dict[str, Any]:
    with lab.requester() as requester:
        for name, (body, properties) in given.items():
            requester.send(body, correlation_id=name, **properties)
            if name == "plain":
                requester.collect()  # it has its outcome before it comes again
        replies = {each.properties.correlation_id: each for each in requester.collect(len(given), 30)}
    taken = lab.take("session.create.dead", letters)
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
    del document["timestamp"], document["payload"]["created_at"]
    document["payload"]["session_id"] = document["payload"]["session_id"][:3]
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
