"""A request that is ours for now: what the flow takes to the ledger, to the handler and into the answer."""

from __future__ import annotations

import time
from dataclasses import field
from typing import TYPE_CHECKING

from session_worker.ledger.protocol import Claim
from session_worker.messages.identifiers import new_session_id, storable
from session_worker.messages.values import value
from session_worker.requests.request import age
from session_worker.telemetry.trace import current_trace

if TYPE_CHECKING:
    from uuid import UUID

    from session_contracts import CreateSessionRequest
    from session_worker.ledger.protocol import Claimed
    from session_worker.requests.request import Request


@value
class Hold:
    """A claimed request, and the token that later steps show."""

    request: Request
    token: UUID
    claimed: Claimed
    since: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.since

    @property
    def published(self) -> float:
        """As the requester says; else the first claim, so that every attempt counts from the same moment."""
        return self.request.published or self.claimed.received_at.timestamp()

    @property
    def queue_wait(self) -> float | None:
        """Seconds in the queue before the first attempt, where the requester said when it published."""
        if self.claimed.attempt > 1 or self.claimed.crashes or self.request.published is None:
            return None
        return max(age(self.request.published) - self.seconds, 0.0)

    def for_handler(self) -> CreateSessionRequest:
        """The request as the handler sees it: with the id and the time that hold for every delivery, where
        its sender gave none."""
        model = self.request.model
        if model.model_fields_set >= {"request_id", "timestamp"}:
            return model
        stable = {"request_id": self.request.request_id, "timestamp": self.claimed.received_at.isoformat()}
        missing = {name: value for name, value in stable.items() if name not in model.model_fields_set}
        return model.model_copy(update=missing)


class FencedError(Exception):
    """Another worker has taken the request over; what was done here no longer counts."""

    def __init__(self, hold: Hold) -> None:
        super().__init__(hold)
        self.attempt = hold.claimed.attempt


def claim_step(request: Request, token: UUID, *, suspect_after: int | None) -> Claim:
    return Claim(
        request_id=request.request_id,
        fingerprint=request.fingerprint,
        token=token,
        session_id=new_session_id(),
        user_id=request.model.user_id,
        operation=request.model.operation,
        casefile_id=request.casefile_id,
        title=request.model.payload.title,
        patience=request.patience,
        reply_to=storable(request.reply_to),
        correlation_id=storable(request.correlation_id),
        traceparent=current_trace.get().traceparent,
        suspect_after=suspect_after,
    )
