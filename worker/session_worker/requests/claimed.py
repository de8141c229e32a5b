"""A request that this worker has claimed: what the flow takes to the ledger, to the handler and into the
response."""

from __future__ import annotations

import time
from dataclasses import field
from typing import TYPE_CHECKING

from session_worker.ledger.protocol import Claim
from session_worker.messages.identifiers import new_session_id, storable
from session_worker.messages.immutable import immutable
from session_worker.requests.outcomes import Reply
from session_worker.telemetry.trace import current_trace

if TYPE_CHECKING:
    from uuid import UUID

    from session_contracts import CreateSessionRequest
    from session_worker.ledger.protocol import Claimed
    from session_worker.requests.request import Request

MAX_AGE = 30 * 86_400.0
"""Seconds. A request that claims to be older counts as this old, so that it spoils no sum."""


@immutable
class ClaimedRequest:
    """A request, the token that later steps show, and what the ledger knows of it (``entry``)."""

    request: Request
    token: UUID
    entry: Claimed
    since: float = field(default_factory=time.monotonic)

    @property
    def subject(self) -> tuple[UUID, int]:
        """The request's id and the number of the attempt, with which every event begins."""
        return self.request.request_id, self.entry.attempt

    @property
    def seconds(self) -> float:
        """Seconds since the claim."""
        return time.monotonic() - self.since

    @property
    def queue_wait(self) -> float | None:
        """Seconds in the queue before the first attempt; None if nobody said when it was published."""
        if self.entry.attempt > 1 or self.entry.crashes or self.request.published is None:
            return None
        return max(age(self.request.published) - self.seconds, 0.0)

    def for_handler(self) -> CreateSessionRequest:
        """Return the request as the handler sees it. An id or a time that its sender did not give is the same
        in every attempt."""
        model = self.request.model
        if model.model_fields_set >= {"request_id", "timestamp"}:
            return model
        stable = {"request_id": self.request.request_id, "timestamp": self.entry.received_at.isoformat()}
        missing = {name: value for name, value in stable.items() if name not in model.model_fields_set}
        return model.model_copy(update=missing)

    def reply(self, body: bytes) -> Reply:
        """Return the first reply to the request. If the requester did not say when it published, the time
        counts from the first claim."""
        request = self.request
        return Reply(
            body,
            request.reply_to,
            request.correlation_id,
            request.request_id,
            self.token,
            attempt=self.entry.attempt,
            published=request.published or self.entry.received_at.timestamp(),
        )


class FencedError(Exception):
    """Another worker has taken the request over; what was done here no longer counts."""

    def __init__(self, claimed: ClaimedRequest) -> None:
        super().__init__(claimed)
        self.claimed = claimed


def claim_step(request: Request, token: UUID, *, suspect_after: int | None) -> Claim:
    """Return what to ask the ledger for a request."""
    return Claim(
        request_id=request.request_id,
        fingerprint=request.fingerprint,
        token=token,
        session_id=new_session_id(),
        user_id=request.model.user_id,
        operation=request.model.operation,
        casefile_id=request.casefile_id,
        title=request.model.payload.title,
        time_to_live=request.time_to_live,
        reply_to=storable(request.reply_to),
        correlation_id=storable(request.correlation_id),
        traceparent=current_trace.get().traceparent,
        suspect_after=suspect_after,
    )


def age(published: float) -> float:
    """Return the seconds since ``published``: none for a time to come, at most ``MAX_AGE``."""
    return min(max(time.time() - published, 0.0), MAX_AGE)
