"""What was decided about a delivery. Each value leads to exactly one settlement (``settle.py``)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from session_worker.messages.values import value
from session_worker.requests.request import NIL_ID

if TYPE_CHECKING:
    from datetime import datetime
    from uuid import UUID

    from session_contracts import ErrorCode


@value
class Reply:
    """An answer on its way out: the bytes, and where they go.

    ``request_id`` and ``token`` are None for a refusal: nothing was claimed, so the ledger has no entry to
    note it on.
    ``published`` (seconds since 1970) is there when this is the first answer to the request.
    """

    body: bytes
    reply_to: str
    correlation_id: str
    request_id: UUID | None = None
    token: UUID | None = None
    replayed: bool = False
    attempt: int = 0
    published: float | None = None


@value
class Letter:
    """Why a request goes to the parking lot: what the headers of its parked copy will say."""

    code: ErrorCode
    message: str
    request_id: UUID | None = None
    exception_type: str | None = None
    stacktrace: str | None = None
    attempts: int = 0
    first_seen_at: datetime | None = None


@value
class Completed:
    """The session was created now."""

    reply: Reply


@value
class Replayed:
    """The request had its outcome before: the stored answer goes out again. ``letter`` is there when
    the request should have been parked and never was."""

    reply: Reply
    letter: Letter | None = None
    error_code: ErrorCode | None = None


@value
class RetryLater:
    """The attempt failed and others are left. ``delay`` in whole seconds names the retry queue."""

    request_id: UUID
    delay: int
    attempt: int


@value
class Busy:
    """The request is in other hands, not due yet, or a suspect whose turn it is not.
    ``requeues`` counts how often that was so.

    ``request_id`` is None after a defect of ours, when nothing could be decided.
    """

    request_id: UUID | None
    delay: int
    requeues: int


@value
class Declined:
    """The handler gave a business answer: no."""

    reply: Reply


@value
class Expired:
    """The requester's patience ended before the session was created."""

    reply: Reply


@value
class Refused:
    """Nothing was claimed. ``reply`` is None when nobody could match the answer."""

    reply: Reply | None
    letter: Letter


@value
class Failed:
    """Attempts or crashes are spent, or trying again cannot help."""

    reply: Reply
    letter: Letter


@value
class Interrupted:
    """Shutdown while it ran: the entry is ``pending`` again and the attempt is not counted."""


Outcome = Completed | Replayed | RetryLater | Busy | Declined | Expired | Refused | Failed | Interrupted


def subject(outcome: Outcome) -> tuple[UUID | None, int]:
    """The request that an outcome is about, and its attempt."""
    match outcome:
        case Completed(reply=reply) | Declined(reply=reply) | Expired(reply=reply):
            return reply.request_id, reply.attempt
        case Replayed(reply=reply) | Failed(reply=reply):
            return reply.request_id, reply.attempt
        case Refused(letter=letter):
            return (None if letter.request_id == NIL_ID else letter.request_id), 0
        case RetryLater(request_id=request_id, attempt=attempt):
            return request_id, attempt
        case Busy(request_id=request_id):
            return request_id, 0
        case Interrupted():
            return None, 0
