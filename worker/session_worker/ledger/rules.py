"""An entry as a claim finds it, and the answer when it cannot be taken: the same rules for every ledger."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from session_contracts import MOVES, RequestStatus
from session_contracts.errors import ERRORS, known_code
from session_contracts.status import REASONS
from session_worker.ledger.protocol import (
    SETTLING_SECONDS,
    Claimed,
    Finish,
    Finished,
    InOtherHands,
    Mismatch,
    Postpone,
    Reopened,
    StepResult,
    Suspect,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime
    from uuid import UUID

    from session_worker.ledger.protocol import Claim, ClaimAnswer, Release, Reopen

FINAL = frozenset({RequestStatus.COMPLETED, RequestStatus.FAILED})
FINISHED = "status IN ({})".format(", ".join(f"'{status}'" for status in sorted(FINAL)))
"""The SQL for entries that have their outcome."""
REOPENABLE = "status = 'failed' AND coalesce(error_code, '') NOT IN ({})".format(
    ", ".join(f"'{code}'" for code, info in sorted(ERRORS.items()) if not info.parked)
)
"""The SQL for entries that an operator may re-open: those whose failure was meant for people. ``coalesce``
keeps PostgreSQL from an index of all failures, by which it would find them in another order than by id."""
FINISHING = ", ".join(f"('{old}', '{new}')" for old, new in sorted(MOVES, key=str) if old and new in FINAL)
"""The SQL for the moves that end a request, each as the status before and after."""
REDRIVEN = REASONS[RequestStatus.FAILED, RequestStatus.PENDING]
"""What the history says of an entry that was re-opened."""

OF_SESSION = "WHERE request_id = (SELECT request_id FROM sessions WHERE session_id = {})"
"""The SQL that finds the entry of a session, whose id is to be bound in the braces."""


@dataclass(frozen=True, slots=True)
class EntryState:
    """The columns of ``requests`` that a claim looks at; times that remain are seconds by the ledger's clock.

    ``due_in``: until its next attempt (None: at once). ``gone_in``: until its holder could be known to be
    gone (None: it is). ``takeover_in``: until this worker may take over from anyone at all. ``finished_for``:
    since its outcome. ``mine``: this worker is the holder (a finished entry keeps the one who finished it).
    """

    status: str
    fingerprint: bytes
    token: UUID
    attempt: int
    crashes: int
    session_id: str
    response: bytes | None
    error_code: str | None
    error: str | None
    detail: str | None
    received_at: datetime
    traceparent: str | None
    parked: bool
    mine: bool
    due_in: float | None
    gone_in: float | None
    takeover_in: float | None
    finished_for: float | None

    def refusal(self, claim: Claim) -> ClaimAnswer | None:
        """Why ``claim`` does not take this entry now; None when it may. A claim that did take it, under the
        same token, is answered as it was the first time."""
        if self.fingerprint != claim.fingerprint:
            return Mismatch()
        if self.status in FINAL:
            return self._finished()
        if self.token == claim.token:
            # A claim leaves an entry pending only if its patience had ended.
            return self.claimed(expired=self.status == RequestStatus.PENDING)
        running = self.status == RequestStatus.PROCESSING
        wait = max(self.gone_in or 0, self.takeover_in or 0) if running else self.due_in or 0
        if wait > 0:
            return InOtherHands(wait, running, self.traceparent)
        limit = claim.suspect_after
        return None if limit is None or self.crashes + running < limit else Suspect()

    def claimed(self, *, expired: bool) -> Claimed:
        return Claimed(
            session_id=self.session_id,
            attempt=self.attempt,
            crashes=self.crashes,
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
            # One that only a newer release knows is for that release to park.
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


class Found(NamedTuple):
    """What a step that wrote nothing finds. ``due_in``: seconds until the next attempt."""

    token: UUID
    status: str
    fingerprint: bytes
    due_in: float | None


def repeated(step: Finish | Release, entry: Found | None) -> StepResult:
    """How a step ended that wrote nothing.

    The token stays until the next claim, so under our own token the status tells whether the step had been
    written before, by a commit whose answer was lost.
    """
    wanted = step.status if isinstance(step, Finish) else RequestStatus.PENDING
    ours = entry is not None and entry.token == step.token and entry.status == wanted
    return StepResult.APPLIED if ours else StepResult.FENCED


def not_postponed(step: Postpone, entry: Found | None) -> int | StepResult:
    """The same for ``Postpone``: how it ended that wrote nothing."""
    if entry is None or entry.token != step.token:
        return StepResult.FENCED
    if entry.status == RequestStatus.PENDING:
        return next((delay for delay in step.delays if delay >= (entry.due_in or 0)), step.delays[-1])
    return StepResult.OVERDUE if entry.status == RequestStatus.PROCESSING else StepResult.FENCED


def reopened(step: Reopen, entry: Found | None) -> Reopened:
    """What a step found that wrote nothing."""
    if entry is None:
        return Reopened.UNKNOWN
    if entry.fingerprint != step.fingerprint:
        return Reopened.MISMATCH
    if entry.status in FINAL:
        return Reopened.FINISHED
    # Under our own token it had been written before, by a commit whose answer was lost.
    return Reopened.REOPENED if entry.token == step.token else Reopened.OPEN


def condition(status: RequestStatus | None) -> str:
    """The SQL that finds entries of ``status`` among the others, in every ledger's reader."""
    if status is None:
        return ""
    # Some are found by an index of few entries: what failed has an error code, what waits has no holder.
    indexed = {
        RequestStatus.FAILED: "AND error_code IS NOT NULL",
        RequestStatus.PENDING: "AND holder IS NULL",
    }
    return f"AND status = '{RequestStatus(status)}' {indexed.get(status, '')}"


def matching(
    bind: Callable[[object], str],
    *,
    status: RequestStatus | None,
    user_id: str | None,
    error_code: str | None,
    undeliverable: bool,
) -> str:
    """The SQL that finds entries to which all of these apply. ``bind`` takes a value, and returns what stands
    for it in the SQL."""
    terms = [condition(status)]
    if user_id is not None:
        terms.append(f"AND user_id = {bind(user_id)}")
    if error_code is not None:
        terms.append(f"AND error_code = {bind(error_code)}")
    if undeliverable:
        terms.append("AND reply = 'undeliverable'")
    return " ".join(terms)
