"""The sessions of a ledger: what is asked of them, and the answers that are made of their rows."""

from __future__ import annotations

import json
from dataclasses import field
from typing import TYPE_CHECKING, Any

from session_contracts import SessionClosedPayload, SessionPayload, SessionSummary
from session_contracts.types import timestamp
from session_worker.messages.identifiers import new_token
from session_worker.messages.immutable import immutable

if TYPE_CHECKING:
    from datetime import datetime
    from uuid import UUID

    from session_contracts import ListSessionsPayload

FEWEST_MOVES = 3
"""What counts for the creation of a session by an earlier version, once that request was pruned."""
FACTS = frozenset(("attempts", "worker_id", "processing_ms"))
"""What the metadata of a response holds beside the handler's."""


@immutable
class CloseSession:
    """Close a session. ``request_id`` is a number of its own: group commit tells steps apart by it."""

    session_id: str
    user_id: str
    request_id: UUID = field(default_factory=new_token)


@immutable
class GetSession:
    """Read a session; ``request_id`` as in CloseSession."""

    session_id: str
    user_id: str
    request_id: UUID = field(default_factory=new_token)


@immutable
class ListSessions:
    """Read a page of a user's sessions; ``request_id`` as in CloseSession."""

    asked: ListSessionsPayload
    user_id: str
    request_id: UUID = field(default_factory=new_token)


@immutable
class SessionRow:
    """A row of ``sessions``. ``metadata`` is JSON text; if it is None, as an earlier version left it, it is
    that of the ``response`` to the request that created the session, if that is still there."""

    session_id: str
    user_id: str
    casefile_id: str | None
    title: str | None
    created_at: datetime
    updated_at: datetime
    closed_at: datetime | None
    request_count: int
    event_count: int = 0
    metadata: str | None = None
    response: bytes | None = None

    # What stands in a ledger was checked when it came in: it is not checked again.

    def summary(self) -> SessionSummary:
        return SessionSummary.model_construct(**self._common())

    def payload(self) -> SessionPayload:
        return SessionPayload.model_construct(
            **self._common(), event_count=self.event_count, metadata=self._metadata()
        )

    def closed(self, closed_at: datetime) -> SessionClosedPayload:
        return SessionClosedPayload.model_construct(
            session_id=self.session_id,
            closed_at=timestamp(closed_at),
            total_requests=self.request_count,
            total_events=self.event_count,
            duration_seconds=round((closed_at - self.created_at).total_seconds(), 3),
        )

    def _common(self) -> dict[str, Any]:
        return {
            "session_id": self.session_id,
            "user_id": self.user_id,
            "casefile_id": self.casefile_id,
            "title": self.title,
            "created_at": timestamp(self.created_at),
            "updated_at": timestamp(self.updated_at),
            "active": self.closed_at is None,
            "request_count": self.request_count,
        }

    def _metadata(self) -> dict[str, Any]:
        if self.metadata is not None:
            return dict(json.loads(self.metadata))
        facts = json.loads(self.response)["metadata"] if self.response else {}
        return {name: fact for name, fact in facts.items() if name not in FACTS}
