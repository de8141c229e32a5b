"""What a ledger is: the questions the flow asks of it and the answers it gives.

Two implementations, ``sqlite.py`` and ``postgresql.py``, pass one conformance suite (``tests/ledger``).
Every call here is one *step* of one request. Steps of many requests that wait at the same time share a
transaction (``group_commit.py``), and a call returns only after its transaction is durable.

A call never raises because the database is away: it waits until the database is back (``availability``
tells the rest of the worker), and then it finds out by its token whether the lost commit had gone through.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Any, Literal, Protocol

from session_worker.messages.values import value

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from uuid import UUID

    from session_contracts import ErrorCode, RequestStatus
    from session_worker.ledger.availability import Availability


# ------------------------------------------------------------------------------------------- steps


@value
class Claim:
    """Ask for a request: may this worker handle it now?

    ``token`` is fresh for every claim; all later steps apply only while the entry still bears it.
    ``session_id`` and ``traceparent`` are proposals, kept if the request is new. ``patience`` is the time,
    in seconds, after which the requester no longer waits (None: for ever; 0: it has gone already); it is
    noted only when the request is new. An entry with ``suspect_after`` crashes or more (the one that a
    takeover adds counts) is not claimed; with None it is, for the caller runs no other such entry at the
    moment. What is claimed for a caller who is cancelled meanwhile is released again.
    """

    request_id: UUID
    fingerprint: bytes
    token: UUID
    session_id: str
    user_id: str
    operation: str
    casefile_id: str | None = None
    title: str | None = None
    patience: float | None = None
    reply_to: str | None = None
    correlation_id: str | None = None
    traceparent: str | None = None
    suspect_after: int | None = 2


@value
class Finish:
    """Record the outcome: ``processing`` (or ``pending``, when its time ended while it waited) → ``status``.

    For ``completed`` the session row is written in the same transaction. ``error`` is the sentence the
    requester reads; ``detail`` is for operators: it stands in the history and in ``Finished``.
    """

    request_id: UUID
    token: UUID
    status: Literal[RequestStatus.COMPLETED, RequestStatus.FAILED]
    response: bytes
    error_code: ErrorCode | None = None
    error: str | None = None
    detail: str | None = None


@value
class Postpone:
    """Let the request wait for its next attempt: ``processing`` → ``pending``.

    It waits for the longest of ``delays`` (whole seconds, the shortest first) that is over before its
    requester's patience is.
    """

    request_id: UUID
    token: UUID
    delays: Sequence[int]
    error_code: ErrorCode
    detail: str


@value
class Release:
    """Hand the request back without counting the attempt (shutdown): ``processing`` → ``pending``."""

    request_id: UUID
    token: UUID


@value
class Reopen:
    """Begin a new round for a request that failed, as an operator wishes: ``failed`` → ``pending``.

    ``token`` is fresh: who repeats a late step of the old round must not reach into the new one.
    """

    request_id: UUID
    fingerprint: bytes
    token: UUID


@value
class Look:
    """See whether there is an entry; nothing is written."""

    request_id: UUID


# ----------------------------------------------------------------------------------------- answers


@value
class Claimed:
    """The request is ours under our token. ``attempt`` counts from 1 and includes this one.

    ``received_at`` is the time of the first claim, ``traceparent`` what that one gave. ``expired`` says that
    the requester's patience had ended before this claim: it counts no attempt, and the only step left is to
    record the outcome. ``error_code`` and ``detail`` are those of the last attempt that failed.
    """

    session_id: str
    attempt: int
    crashes: int
    received_at: datetime
    expired: bool = False
    traceparent: str | None = None
    error_code: str | None = None
    detail: str | None = None


@value
class InOtherHands:
    """Not now. ``wait`` is the time in seconds until it could be claimed: until it is due, or (when
    ``running``) until its live holder could be known to be gone."""

    wait: float
    running: bool
    traceparent: str | None = None


@value
class Suspect:
    """The request saw several workers die; claim it again, without a limit, when no other suspect runs."""


SETTLING_SECONDS = 5.0


@value
class Finished:
    """The request had its outcome before; ``response`` is the reply that was stored with it.

    ``token`` is that of the claim that led to it. ``parked`` says whether its copy is on the parking lot.
    ``settling`` says that another worker recorded the outcome less than ``SETTLING_SECONDS`` ago and is
    alive: it may still be about to reply and to park.
    """

    token: UUID
    status: RequestStatus
    response: bytes
    session_id: str
    attempt: int
    error_code: ErrorCode | None
    error: str | None
    detail: str | None
    received_at: datetime
    parked: bool
    settling: bool
    traceparent: str | None = None


@value
class Mismatch:
    """The id was used before for another request (another fingerprint)."""


ClaimAnswer = Claimed | InOtherHands | Suspect | Finished | Mismatch


class StepResult(Enum):
    """How a step ended: written; too late because the token is no longer ours; or (``Postpone`` only) not
    written because even after the shortest delay the request would be due too late for its requester."""

    APPLIED = "applied"
    FENCED = "fenced"
    OVERDUE = "overdue"


class Reopened(Enum):
    """What ``reopen`` found: it wrote only for the first of these."""

    REOPENED = "reopened"
    OPEN = "open"
    """It waits or runs already: re-opened before, or asked for again by its requester since."""
    FINISHED = "finished"
    """It has an outcome that is nobody's fault: completed, or a business answer."""
    MISMATCH = "mismatch"
    """The id is another request's (another fingerprint)."""
    UNKNOWN = "unknown"


class UnstorableError(Exception):
    """The database cannot store the data of this one entry (its neighbours in the batch are not affected)."""


class LedgerError(Exception):
    """The ledger cannot be used as it is set up; the message says what is wrong and what to do."""


# ----------------------------------------------------------------------------- what people ask for


@value
class Entry:
    """One row of ``requests`` as people and programs see it (``status --json``, ``requests --json``)."""

    request_id: UUID
    status: RequestStatus
    attempt: int
    session_id: str
    user_id: str
    casefile_id: str | None
    title: str | None
    error_code: str | None
    error: str | None
    reply: Literal["sent", "undeliverable"] | None
    received_at: datetime
    updated_at: datetime
    finished_at: datetime | None
    next_attempt_at: datetime | None
    history: Sequence[dict[str, Any]]
    """Each: ``{"status", "at" (ISO 8601), "attempt", "worker_id", "detail"}``."""

    @property
    def reason(self) -> str:
        """Why it failed or waits: what operators are told, else what the requester was; or nothing."""
        if self.status == "completed":
            return ""
        return (self.history[-1]["detail"] if self.history else None) or self.error or ""


@value
class Glimpse:
    """One request in short. Seconds by the ledger's clock: ``age`` since its first claim, ``took`` from then
    to its outcome. ``replayed``: an operator has re-opened it in between."""

    request_id: UUID
    status: RequestStatus
    age: float
    took: float | None
    error_code: str | None = None
    replayed: bool = False


COUNTED = 10_000
"""``Recent.waiting`` counts no further: a look must cost the same however much there is."""


@value
class Recent:
    """Current activity. ``newest``: the requests received last. ``troubled``: those received last that
    failed, or whose last attempt did. ``waiting``: how many wait for their next attempt, or were handed back.
    ``workers``: the ids of those alive."""

    newest: Sequence[Glimpse]
    troubled: Sequence[Glimpse]
    waiting: int
    workers: Sequence[str]


@value
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
        """Connect, check (SQLite: upgrade) the schema, register this worker and keep it registered.

        Raises:
            LedgerError: it cannot be reached, opened or used; a sentence for people.
        """

    async def close(self) -> None:
        """Write what is noted, take this worker off the register, disconnect. Bounded in time."""

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


class LedgerReader(Protocol):
    """The ledger as an operator asks it: nothing is registered, nothing is written."""

    async def open(self) -> None:
        """Raises LedgerError like ``Ledger.open``; also when the schema is not there or not this version."""

    async def close(self) -> None: ...

    async def get(self, request_id: UUID) -> Entry | None: ...

    async def get_by_session(self, session_id: str) -> Entry | None:
        """The entry of the request that created a session."""

    async def find(
        self,
        *,
        status: RequestStatus | None = None,
        since: float | None = None,
        user_id: str | None = None,
        error_code: str | None = None,
        undeliverable: bool = False,
        limit: int = 50,
    ) -> list[Entry]:
        """The entries to which all that is given applies, the newest first. ``since``: in seconds before now,
        by ``received_at``. ``error_code``: why it failed, or its last attempt did. ``undeliverable``: so was
        its reply."""

    async def identity(self) -> str:
        """See ``Opened``."""

    async def count_sessions(self) -> int: ...

    async def recent(self, *, since: float, limit: int) -> Recent:
        """A look that may be taken every second. ``newest`` and ``troubled`` are at most ``limit`` requests
        each, received in the last ``since`` seconds; the newest come first."""
