"""A request, or the refusal of what is none; and which request a delivery is about."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING
from uuid import UUID

from session_contracts.amqp import REQUEST_ID
from session_worker.messages.values import value
from session_worker.requests.sentences import sentence

if TYPE_CHECKING:
    from session_contracts import CreateSessionRequest, ErrorCode
    from session_worker.messages.delivery import Delivery

NIL_ID = UUID(int=0)
"""Stands for the id of a request that has none."""
MAX_AGE = 30 * 86_400.0
"""Seconds. A request that claims to be older counts as this old, so that it spoils no sum."""
_UUID = re.compile(r"[0-9A-Fa-f]{8}-?(?:[0-9A-Fa-f]{4}-?){3}[0-9A-Fa-f]{12}")
"""Python's own parser accepts digits of every script, underscores, and hyphens anywhere."""


@value
class Request:
    """A request that was understood.

    ``time_to_live`` is in seconds: None is for ever, 0 is over. ``published`` is in seconds since 1970, None
    when the requester did not say. ``requeues`` counts how often it went round because others had it.
    The response is made without ``model`` once the handler has had it: a handler may do anything to it.
    """

    request_id: UUID
    casefile_id: str | None
    model: CreateSessionRequest
    fingerprint: bytes
    reply_to: str
    correlation_id: str
    time_to_live: float | None
    published: float | None
    requeues: int

    def refused(self, code: ErrorCode) -> Refusal:
        """Refuse the request although it was understood."""
        return Refusal(
            code, sentence(code), self.request_id, self.reply_to, self.correlation_id, self.casefile_id
        )


@value
class Refusal:
    """Why nothing is claimed. ``correlation_id`` is None when nobody could match a response."""

    code: ErrorCode
    error: str
    request_id: UUID | None
    reply_to: str
    correlation_id: str | None
    casefile_id: str | None = None


def identify(delivery: Delivery, in_body: UUID | None = None, *, body_read: bool = True) -> UUID | None:
    """Return the id of the request that a delivery is about, or None if it has none.

    It is the id in the body, else that in the header ``x-request-id`` (all our copies have it), else a UUID
    in ``message_id``, else one in ``correlation_id``. While the body is not read (``body_read=False``), its
    id may be another than the one that the sender's library gave the message: only the header counts then.
    """
    if in_body is not None:
        return in_body
    in_header = delivery.headers.get(REQUEST_ID)
    if found := as_id(in_header):
        return found
    if not body_read:
        return None
    # With the nil UUID, our header says that the original had no id: this message_id is the copy's own.
    message_id = None if in_header == str(NIL_ID) else delivery.message_id
    return as_id(message_id) or as_id(delivery.correlation_id)


def as_id(value: object) -> UUID | None:
    """Return the UUID that ``value`` spells; None for anything else and for the nil UUID."""
    if not isinstance(value, str) or not _UUID.fullmatch(value):
        return None
    found = UUID(value)
    return None if found == NIL_ID else found


def age(published: float) -> float:
    """Return the seconds since ``published``: none for a time to come, at most ``MAX_AGE``."""
    return min(max(time.time() - published, 0.0), MAX_AGE)
