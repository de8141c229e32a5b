"""What was decided about a delivery. Each outcome leads to exactly one settlement (``settle.py``).

Import the module, so that an outcome reads as one: ``outcomes.Rejected``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from session_worker.messages.immutable import immutable

if TYPE_CHECKING:
    from datetime import datetime
    from uuid import UUID

    from session_contracts import ErrorCode


@immutable
class Reply:
    """A response on its way out: the body, and where it goes.

    ``token`` is None where nothing was claimed: the ledger has no entry that a note could stand on.
    ``request_id`` is None for a refusal. ``published`` (seconds since 1970) is there when this is the first
    reply to the request.
    """

    body: bytes
    reply_to: str
    correlation_id: str
    request_id: UUID | None = None
    token: UUID | None = None
    replayed: bool = False
    attempt: int = 0
    published: float | None = None


@immutable
class Letter:
    """Why a request goes to the parking lot: what the headers of its parked copy will say."""

    code: ErrorCode
    message: str
    request_id: UUID | None = None
    exception_type: str | None = None
    stacktrace: str | None = None
    attempts: int = 0
    first_seen_at: datetime | None = None


@immutable
class Completed:
    """The request was carried out now."""

    reply: Reply


@immutable
class Answered:
    """A read was answered: nothing was claimed, and nothing is noted."""

    reply: Reply


@immutable
class Rejected:
    """The handler gave a business answer: no."""

    reply: Reply


@immutable
class Expired:
    """The request's time to live was over before its first attempt."""

    reply: Reply


@immutable
class Failed:
    """Attempts or crashes are spent, or trying again cannot help."""

    reply: Reply
    letter: Letter


@immutable
class Replayed:
    """The request had its outcome before: the stored response goes out again. ``letter`` is there when the
    request should have been parked and never was."""

    reply: Reply
    letter: Letter | None = None
    error_code: ErrorCode | None = None


@immutable
class RetryLater:
    """The attempt failed and others are left. ``delay`` in whole seconds names the retry queue."""

    request_id: UUID
    delay: int
    attempt: int


@immutable
class Busy:
    """The request is in other hands, not due yet, or a suspect whose turn it is not; or, after a defect of
    ours, nothing could be decided.

    ``delay`` in whole seconds names the retry queue. ``requeues`` counts how often that was so, this time
    included. ``request_id`` is None when nobody knows it.
    """

    request_id: UUID | None
    delay: int
    requeues: int


@immutable
class Interrupted:
    """The worker shuts down: the entry is ``pending`` again and the attempt is not counted."""


@immutable
class Refused:
    """Nothing was claimed. ``reply`` is None when nobody could match a response."""

    reply: Reply | None
    letter: Letter


Outcome = (
    Completed | Answered | Rejected | Expired | Failed | Replayed | RetryLater | Busy | Interrupted | Refused
)
