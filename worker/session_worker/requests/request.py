"""A request, or the refusal of what is none."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import UUID

from session_worker.messages.immutable import immutable
from session_worker.requests.sentences import sentence

if TYPE_CHECKING:
    from session_contracts import BaseRequest, ErrorCode

NIL_ID = UUID(int=0)
"""Stands for the id of a request that has none."""


@immutable
class Request:
    """A request that was understood.

    ``time_to_live`` is in seconds: None is for ever, 0 is over. ``published`` is in seconds since 1970, None
    when the requester did not say. ``requeues`` counts how often it went round because others had it.
    ``session_id``: the session that it names. ``lost_before``: its delivery was lost twice before.
    The response is made without ``model`` once the handler has had it: a handler may do anything to it.
    """

    request_id: UUID
    session_id: str | None
    casefile_id: str | None
    model: BaseRequest[Any]
    fingerprint: bytes
    reply_to: str
    correlation_id: str
    time_to_live: float | None
    published: float | None
    requeues: int
    lost_before: bool

    def refused(self, code: ErrorCode, *, creates: bool) -> Refusal:
        """Refuse the request although it was understood."""
        error = sentence(code, creates=creates)
        return Refusal(code, error, self.request_id, self.reply_to, self.correlation_id, self.casefile_id)


@immutable
class Refusal:
    """Why nothing is claimed. ``correlation_id`` is None when nobody could match a response."""

    code: ErrorCode
    error: str
    request_id: UUID | None
    reply_to: str
    correlation_id: str | None
    casefile_id: str | None = None
