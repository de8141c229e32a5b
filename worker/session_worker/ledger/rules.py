"""What may happen to an entry: the rules of claims and of steps, the same for every ledger.

``EntryState.answer`` decides about a claim. PostgreSQL takes what may be taken in one statement, ``CLAIM``,
which says the same conditions in SQL, and asks here about the rest. ``tests/ledger/claim_rules.py`` is the
table of all cases; each of them is tried on both ledgers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from session_contracts import MOVES, RequestStatus
from session_contracts.errors import ERRORS, known_code
from session_contracts.status import REDRIVE
from session_worker.ledger.protocol import (
    SETTLING_SECONDS,
    Claimed,
    Finish,
    Finished,
    Mismatch,
    NotNow,
    Postpone,
    Reopened,
    StepResult,
    Suspect,
)

if TYPE_CHECKING:
    from datetime import datetime
    from uuid import UUID

    from session_worker.ledger.protocol import Claim, ClaimAnswer, Release, Reopen

FINAL = frozenset({RequestStatus.COMPLETED, RequestStatus.FAILED})
FINISHED = "status IN ({})".format(", ".join(f"'{status}'" for status in sorted(FINAL)))
"""The SQL for entries that have their outcome."""
REOPENABLE = "status = '{}' AND coalesce(error_code, '') NOT IN ({})".format(
    REDRIVE.before, ", ".join(f"'{code}'" for code, info in sorted(ERRORS.items()) if not info.parked)
)
"""The SQL for entries that an operator may re-open: those whose failure was meant for people. ``coalesce``
keeps PostgreSQL from an index of all failures, by which it would find them in another order than by id."""
FINISHING = ", ".join(f"('{move.before}', '{move.after}')" for move in MOVES if move.after in FINAL)
"""The SQL for the moves that end a request, each as the status before and after."""


@dataclass(frozen=True, slots=True)
class EntryState:
    """The columns of ``requests`` that decide; times are seconds from now by the ledger's clock.

    ``due_in``: until its next attempt (None: at once). ``gone_in``: until its holder could be known to be
    gone (None: it is). ``takeover_in``: until this worker may take over from anyone at all. ``finished_for``:
    since its outcome. ``mine``: this worker is the holder (an outcome keeps its worker as the holder).
    """

    status: str
    fingerprint: bytes
    token: UUID
    attempt: int
    crashes: int
    session_id: str | None
    response: bytes | None
    error_code: str | None
    error: str | None
    detail: str | None
    received_at: datetime
    traceparent: str | None
    parked: bool
    mine: bool
    expired: bool
    due_in: float | None
    gone_in: float | None
    takeover_in: float
    finished_for: float | None

    def answer(self, claim: Claim) -> ClaimAnswer:
        """What ``claim`` is answered. If ``Claimed``, it takes the entry, unless it has done so before: under
        its own token it is answered as it was the first time."""
        if self.fingerprint != claim.fingerprint:
            return Mismatch()
        if self.status in FINAL:
            return self._finished()
        if self.token == claim.token:
            # A claim leaves an entry pending only if the requester's time had ended.
            return self._claimed(self.attempt, self.crashes, expired=self.status == RequestStatus.PENDING)
        running = self.status == RequestStatus.PROCESSING
        wait = max(self.gone_in or 0, self.takeover_in) if running else self.due_in or 0
        if wait > 0:
            return NotNow(wait, running, self.traceparent)
        crashes = self.crashes + running  # a holder that is gone has crashed
        if claim.suspect_after is not None and crashes >= claim.suspect_after:
            return Suspect()
        attempt = self.attempt + (not running and not self.expired)
        return self._claimed(attempt, crashes, expired=self.expired)

    def _claimed(self, attempt: int, crashes: int, *, expired: bool) -> Claimed:
        return Claimed(
            session_id=self.session_id,
            attempt=attempt,
            crashes=crashes,
            received_at=self.received_at,
            expired=expired,
            traceparent=self.traceparent,
            error_code=self.error_code,
            detail=self.detail,
        )

    def _finished(self) -> Finished:
        return Finished(
            token=self.token,
            status=RequestStatus(self.status),
            response=self.response or b"",
            session_id=self.session_id,
            attempt=self.attempt,
            # A code that only a newer release knows is for that release to park.
            error_code=known_code(self.error_code),
            error=self.error,
            detail=self.detail,
            received_at=self.received_at,
            parked=self.parked,
            settling=not self.mine
            and (self.gone_in or 0) > 0
            and 0 <= (self.finished_for or 0) < SETTLING_SECONDS,
            traceparent=self.traceparent,
        )


def unwritten(step: Finish | Release, entry: EntryState | None) -> StepResult:
    """How a step ended that wrote nothing.

    The token stays until the next claim, so under our own token the status tells whether the step had been
    written before, by a commit whose answer was lost.
    """
    wanted = step.status if isinstance(step, Finish) else RequestStatus.PENDING
    ours = entry is not None and entry.token == step.token and entry.status == wanted
    return StepResult.APPLIED if ours else StepResult.FENCED


def unwritten_postpone(step: Postpone, entry: EntryState | None) -> int | StepResult:
    """The same for ``Postpone``."""
    if entry is None or entry.token != step.token or entry.status in FINAL:
        return StepResult.FENCED
    if entry.status == RequestStatus.PROCESSING:
        return StepResult.OVERDUE
    return next((delay for delay in step.delays if delay >= (entry.due_in or 0)), step.delays[-1])


def unwritten_reopen(step: Reopen, entry: EntryState | None) -> Reopened:
    """The same for ``Reopen``."""
    if entry is None:
        return Reopened.UNKNOWN
    if entry.fingerprint != step.fingerprint:
        return Reopened.MISMATCH
    if entry.status in FINAL:
        return Reopened.FINISHED
    return Reopened.REOPENED if entry.token == step.token else Reopened.OPEN
