"""What a ledger is: the questions the flow asks of it and the answers it gives.

Two implementations, in ``sqlite/`` and ``postgresql/``, decide by the same ``rules`` and pass one conformance
suite (``tests/ledger``). Each call is one *step* of one request. Steps that wait at the same time share a
transaction (``group_commit.py``), and a call returns only after its transaction is durable.

A call never raises because the database is away: it waits until the database is back (``availability``
tells the rest of the worker), and then finds out by its token whether the lost commit had gone through.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Literal, Protocol

from session_client.net.diagnosis import DiagnosedError
from session_worker.messages.immutable import immutable

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from uuid import UUID

    from session_contracts import (
        ErrorCode,
        ListSessionsPayload,
        RequestStatus,
        SessionClosedPayload,
        SessionListPayload,
        SessionPayload,
    )
    from session_worker.ledger.availability import Availability


# ------------------------------------------------------------------------------------------- steps


@immutable
class Claim:
    """Ask for a request: may this worker handle it now?

    ``token`` is fresh for every claim; all later steps apply only while the entry still bears it.
    ``session_id`` is the id reserved for the session that the request is to create, or else the id of the one
    that it names. It, ``traceparent`` and ``time_to_live`` are kept only if the request is new. After
    ``time_to_live`` seconds its requester no longer waits (None: it waits for ever; 0: not any more). An
    entry with ``suspect_after`` crashes or more, that of a takeover included, is not claimed; with None it
    is, as the caller handles no other such entry at the moment. What is claimed for a cancelled caller is
    released again.
    """

    request_id: UUID
    fingerprint: bytes
    token: UUID
    session_id: str | None
    user_id: str
    operation: str
    casefile_id: str | None = None
    title: str | None = None
    time_to_live: float | None = None
    reply_to: str | None = None
    correlation_id: str | None = None
    traceparent: str | None = None
    suspect_after: int | None = 2


@immutable
class Finish:
    """Record the outcome: ``processing`` (or ``pending``, if its time ended while it waited) → ``status``.

    ``session`` is the metadata, as JSON text, of the session that the outcome creates: its row is written in
    the same transaction. With None, the request counts for the session that it names, if that is there and
    its user's. ``error`` is the sentence that the requester reads; ``detail`` is for operators: it stands in
    the history and in ``Finished``.
    """

    request_id: UUID
    token: UUID
    status: Literal[RequestStatus.COMPLETED, RequestStatus.FAILED]
    response: bytes
    error_code: ErrorCode | None = None
    error: str | None = None
    detail: str | None = None
    session: str | None = None


@immutable
class Postpone:
    """Let the request wait for its next attempt: ``processing`` → ``pending``.

    It waits for the longest of ``delays`` (whole seconds, the shortest first) that ends before the request
    expires.
    """

    request_id: UUID
    token: UUID
    delays: Sequence[int]
    error_code: ErrorCode
    detail: str


@immutable
class Release:
    """Hand the request back without counting the attempt (shutdown): ``processing`` → ``pending``."""

    request_id: UUID
    token: UUID


@immutable
class Reopen:
    """Begin a new round for a request that failed, for an operator: ``failed`` → ``pending``.

    ``token`` is fresh, so that a late step of the old round cannot change the new one.
    """

    request_id: UUID
    fingerprint: bytes
    token: UUID


# ----------------------------------------------------------------------------------------- answers


@immutable
class Claimed:
    """The request is ours under our token. ``attempt`` counts from 1 and includes this one.

    ``received_at`` is the time of the first claim, ``traceparent`` what that claim gave. ``expired``: the
    request had expired before this claim, which counts no attempt; the only step left is to record the
    outcome. ``error_code`` and ``detail`` are those of the last attempt that failed.
    """

    session_id: str | None
    attempt: int
    crashes: int
    received_at: datetime
    expired: bool = False
    traceparent: str | None = None
    error_code: str | None = None
    detail: str | None = None


@immutable
class NotNow:
    """It cannot be claimed for another ``wait`` seconds: until it is due, or (if ``running``) until its
    living holder could be known to be gone."""

    wait: float
    running: bool
    traceparent: str | None = None


@immutable
class Suspect:
    """Several workers died with the request. Claim it again, without a limit, when no other suspect runs."""


SETTLING_SECONDS = 5.0


@immutable
class Finished:
    """The request had its outcome before; ``response`` is the reply that was stored with it.

    ``token`` is that of the claim that led to it. ``parked`` says whether its copy is on the parking lot.
    ``settling`` says that another worker recorded the outcome less than ``SETTLING_SECONDS`` ago and is
    alive: it may still be about to reply and to park.
    """

    token: UUID
    status: RequestStatus
    response: bytes
    session_id: str | None
    attempt: int
    error_code: ErrorCode | None
    error: str | None
    detail: str | None
    received_at: datetime
    parked: bool
    settling: bool
    traceparent: str | None = None


@immutable
class Mismatch:
    """The id was used before for another request (another fingerprint)."""


ClaimAnswer = Claimed | NotNow | Suspect | Finished | Mismatch


class StepResult(Enum):
    """How a step ended. APPLIED: it is written. FENCED: it came too late, the token is no longer ours.
    OVERDUE (``Postpone`` only): nothing is written, as even the shortest delay would end after the request
    expires."""

    APPLIED = "applied"
    FENCED = "fenced"
    OVERDUE = "overdue"


class Reopened(Enum):
    """What ``reopen`` found; it writes only for the first of these."""

    REOPENED = "reopened"
    OPEN = "open"
    """It waits or runs already: it was re-opened before, or its requester has asked for it again."""
    FINISHED = "finished"
    """It has an outcome that is nobody's fault: completed, or a business answer."""
    MISMATCH = "mismatch"
    """The id is another request's (another fingerprint)."""
    UNKNOWN = "unknown"


class UnstorableError(Exception):
    """The database cannot store the data of this one entry (its neighbours in the batch are not affected)."""


class LockedError(Exception):
    """Somebody else holds a row that a step of the batch needs: nothing of the batch is written."""


class TooSlowError(Exception):
    """The database needs too long for this one read, which is not repeated."""


class LedgerError(DiagnosedError):
    """The ledger cannot be used as it is set up."""


COUNTED = 10_000
"""``Recent.waiting`` counts no further: a look must cost the same however much there is."""


@immutable
class Opened:
    """Which ledger was opened. ``identity``: the moment in which it was made, which its copies keep. ``name``
    is for people, without a password. ``holds``: how many requests are there, as far as is known at once."""

    identity: str
    name: str
    holds: str


def holds(counted: int, estimated: int) -> str:
    """``counted``: requests, no further than to COUNTED."""
    if counted < COUNTED:
        return f"{counted:,} request{'' if counted == 1 else 's'}" if counted else "new"
    return f"about {max(counted, estimated):,} requests"


class Ledger(Protocol):
    """Where requests and their outcomes are kept."""

    availability: Availability

    async def open(self) -> Opened:
        """Connect, check the schema (SQLite: upgrade it), register this worker and keep it registered.

        Raises:
            LedgerError: it cannot be reached, opened or used; a sentence for people.
        """

    async def close(self) -> None:
        """Write what is noted, end this worker's registration, disconnect. Bounded in time."""

    async def claim(self, claim: Claim) -> ClaimAnswer: ...

    async def finish(self, finish: Finish) -> StepResult: ...

    async def postpone(self, postpone: Postpone) -> int | StepResult:
        """The delay that was chosen, or why there is none."""

    async def release(self, release: Release) -> StepResult: ...

    # Notes are about the outcome of the claim with this token: once an operator has re-opened the request,
    # they say nothing of its new round.

    def note_sent(self, request_id: UUID, token: UUID) -> None:
        """Note, some time soon and without waiting, that the reply was confirmed by the broker."""

    async def note_undeliverable(self, request_id: UUID, token: UUID) -> None:
        """Record that the reply could not be delivered (a reply that was sent before stays ``sent``)."""

    async def note_parked(self, request_id: UUID, token: UUID) -> None:
        """Record that the request's copy is on the parking lot."""

    async def knows(self, request_id: UUID) -> bool:
        """Whether there is an entry of this request."""

    async def reopen(self, request_id: UUID, fingerprint: bytes) -> Reopened:
        """Give a failed request that was meant for people a new round: attempts and crashes count from 0, it
        is due at once and never expires, and of the old answer nothing is left but the history."""

    # What is asked about sessions. One of another user's looks like none. To read waits for no write; a read
    # that takes too long raises TooSlowError.

    async def get_session(self, session_id: str, user_id: str) -> SessionPayload | None: ...

    async def list_sessions(self, asked: ListSessionsPayload, user_id: str) -> SessionListPayload:
        """A page of the user's sessions, the newest first."""

    async def close_session(self, session_id: str, user_id: str) -> SessionClosedPayload | None:
        """Close a session, or find that it is closed: ``closed_at`` is that of the first time."""
