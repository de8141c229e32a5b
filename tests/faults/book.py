"""The requesters' own book: what was sent, and every answer that came. It knows nothing of the worker."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

NIL_SESSION = "ts_000000_none"


@dataclass
class Sending:
    """One message sent. ``content`` tells requests of one id apart, None when it is no request at all.

    ``attempts`` is the number at which it must complete, None when that is not foreseen. ``confirmed`` says
    that the broker took it. ``key`` is the routing key of its operation.
    """

    correlation_id: str
    request_id: str | None
    content: str | None
    outcomes: frozenset[str]
    attempts: int | None = None
    confirmed: bool = False
    body: bytes = b""
    key: str = "create"
    properties: dict[str, Any] = field(default_factory=dict)
    at: float = field(default_factory=time.time)


@dataclass(frozen=True)
class Answer:
    """A reply as it came, with what a requester reads in it."""

    correlation_id: str
    body: bytes
    replayed: bool
    at: float = field(default_factory=time.time)

    @property
    def document(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self.body)
        return document

    @property
    def outcome(self) -> str:
        """``completed``, or the error code."""
        document = self.document
        if document["status"] == "completed":
            return "completed"
        return str(document["metadata"]["error_code"])

    @property
    def refusal(self) -> bool:
        """Nothing was claimed for it."""
        document = self.document
        if document["payload"] is not None:
            return bool(document["payload"].get("session_id") == NIL_SESSION)
        facts = document["metadata"]
        return bool(facts["attempts"] == 0 and facts["error_code"] != "expired")


class Book:
    """Sendings by correlation id, each one's own; and the answers by the same."""

    def __init__(self) -> None:
        self.sendings: dict[str, Sending] = {}
        self.answers: dict[str, list[Answer]] = defaultdict(list)
        self._by_request: dict[str, list[Sending]] = defaultdict(list)

    def send(self, sending: Sending) -> None:
        assert sending.correlation_id not in self.sendings
        self.sendings[sending.correlation_id] = sending
        if sending.request_id is not None:
            self._by_request[sending.request_id].append(sending)

    def receive(self, correlation_id: str, body: bytes, *, replayed: bool) -> Answer:
        answer = Answer(correlation_id, body, replayed)
        self.answers[correlation_id].append(answer)
        return answer

    @property
    def unanswered(self) -> list[Sending]:
        """What the broker took and nobody answered."""
        return [
            each
            for each in self.sendings.values()
            if each.confirmed and not self.answers[each.correlation_id]
        ]

    def of(self, request_id: str) -> list[Sending]:
        """All that was sent under one id."""
        return self._by_request.get(request_id, [])

    @property
    def request_ids(self) -> set[str]:
        return set(self._by_request)
