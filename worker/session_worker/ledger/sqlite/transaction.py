"""What one transaction does to a SQLite ledger: each step as SQL, under one clock reading."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, ClassVar
from uuid import UUID

from session_contracts import SessionClosedPayload
from session_contracts.status import ATTEMPT, WORKER_GONE
from session_worker.ledger.batched import Lookup, ReplyNote
from session_worker.ledger.protocol import (
    Claim,
    ClaimAnswer,
    Claimed,
    Finish,
    Postpone,
    Release,
    Reopen,
    Reopened,
    StepResult,
)
from session_worker.ledger.rules import EntryState, unwritten, unwritten_postpone, unwritten_reopen
from session_worker.ledger.sessions import CloseSession
from session_worker.ledger.sqlite.sessions import find_session
from session_worker.ledger.sqlite.statements import (
    CLOSE_SESSION,
    COUNT,
    COUNTED,
    CREATE_SESSION,
    ENTRY,
    EXPEL,
    FINISH,
    INSERT,
    NOTE,
    OTHERS,
    POSTPONE,
    RELEASE,
    RENEW,
    REOPEN,
    TAKE,
    TAKE_EXPIRED,
)

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Mapping

    from session_worker.ledger.registration import Registration, StandstillWatch


def utc_now() -> datetime:
    return datetime.now(UTC)


def iso(moment: datetime) -> str:
    """A time as the tables keep it: all of one length, so that they sort as text."""
    return moment.isoformat(timespec="microseconds")


Step = Claim | Finish | Postpone | Release | ReplyNote | Reopen | Lookup | CloseSession
Answer = ClaimAnswer | int | StepResult | Reopened | bool | SessionClosedPayload | None


class Transaction:
    """The steps of one transaction of one worker. ``apply`` answers each as ``Ledger`` says.

    Build it inside the transaction: its reading of ``clock`` is then never earlier than what is already
    committed.
    """

    def __init__(
        self,
        database: sqlite3.Connection,
        registration: Registration,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self._database = database
        self._me = registration
        self._clock = clock()
        self._now = iso(self._clock)
        pending, processing = (
            {
                "status": status,
                "at": self._now,
                "attempt": attempt,
                "worker_id": registration.worker_id,
                "detail": None,
            }
            for attempt, status in enumerate(ATTEMPT[:2])
        )
        # How a history begins, by the number of attempts: none if the request has come too late.
        self._histories = (json.dumps([pending]), json.dumps([pending, processing]))

    def apply(self, step: Step) -> Answer:
        return self._answers[type(step)](self, step)

    def renew(self, watch: StandstillWatch, *, gap: bool) -> None:
        """Register this worker until one holder timeout from now, and expel those that ``watch`` finds gone;
        ``gap``: the last renewal failed."""
        gone_at = self._after(self._me.holder_timeout)
        self._execute(RENEW, gap=gap, gone_at=gone_at)
        others = self._database.execute(OTHERS, {"now": self._now, "worker": self._me.worker_id})
        for name in watch.still([(name, start, _seconds(start, end)) for name, start, end in others]):
            self._execute(EXPEL, other=name)

    def sweep(self) -> None:
        """Forget the workers that have been gone for more than a day."""
        self._execute(
            "DELETE FROM workers WHERE gone_at < :limit", limit=iso(self._clock - timedelta(days=1))
        )

    def leave(self) -> None:
        """End this worker's registration."""
        self._execute("DELETE FROM workers WHERE worker_id = :worker")

    def _claim(self, claim: Claim) -> ClaimAnswer:
        return self._first_claim(claim) or self._later_claim(claim)

    def _first_claim(self, claim: Claim) -> Claimed | None:
        """Insert the entry; None when it is there already."""
        expired = claim.time_to_live is not None and claim.time_to_live <= 0
        attempt = 0 if expired else 1
        written = self._execute(
            INSERT,
            claim,
            status=ATTEMPT.before if expired else ATTEMPT.after,
            attempt=attempt,
            holder=None if expired else self._me.worker_id,
            expires_at=None if claim.time_to_live is None else self._after(claim.time_to_live),
            history=self._histories[attempt],
        )
        if not written:
            return None
        return Claimed(claim.session_id, attempt, 0, self._clock, expired, claim.traceparent)

    def _later_claim(self, claim: Claim) -> ClaimAnswer:
        row = self._row(claim.request_id)
        entry = self._entry(row)
        answer = entry.answer(claim)
        if isinstance(answer, Claimed) and entry.token != claim.token:
            if entry.status == WORKER_GONE.before:
                gone = f"its worker {row['holder']} is gone"
                self._execute(
                    TAKE,
                    claim,
                    status=WORKER_GONE.after,
                    attempt=entry.attempt,
                    crashes=answer.crashes,
                    detail=gone,
                )
            if answer.expired:
                self._execute(TAKE_EXPIRED, claim)
            else:
                self._execute(
                    TAKE,
                    claim,
                    status=ATTEMPT.after,
                    attempt=answer.attempt,
                    crashes=answer.crashes,
                    detail=None,
                )
        return answer

    def _finish(self, finish: Finish) -> StepResult:
        if not self._execute(FINISH, finish):
            return unwritten(finish, self._find(finish.request_id))
        if finish.session is not None:
            self._execute(CREATE_SESSION, finish)
        elif self._execute(COUNT, finish):
            self._execute(COUNTED, finish)
        return StepResult.APPLIED

    def _postpone(self, postpone: Postpone) -> int | StepResult:
        for delay in reversed(postpone.delays):
            if self._execute(POSTPONE, postpone, due=self._after(delay), delay=delay):
                return delay
        return unwritten_postpone(postpone, self._find(postpone.request_id))

    def _release(self, release: Release) -> StepResult:
        written = self._execute(RELEASE, release)
        return StepResult.APPLIED if written else unwritten(release, self._find(release.request_id))

    def _reopen(self, reopen: Reopen) -> Reopened:
        written = self._execute(REOPEN, reopen)
        return Reopened.REOPENED if written else unwritten_reopen(reopen, self._find(reopen.request_id))

    def _close_session(self, close: CloseSession) -> SessionClosedPayload | None:
        self._execute(CLOSE_SESSION, close)
        found = find_session(self._database, close.session_id, close.user_id)
        return found.closed(found.closed_at) if found and found.closed_at else None

    def _look_up(self, lookup: Lookup) -> bool:
        return self._row(lookup.request_id) is not None

    def _note(self, note: ReplyNote) -> StepResult:
        self._execute(NOTE, note)
        return StepResult.APPLIED

    def _find(self, request_id: UUID) -> EntryState | None:
        row = self._row(request_id)
        return None if row is None else self._entry(row)

    def _row(self, request_id: UUID) -> Any:
        values = {"request_id": str(request_id), "worker": self._me.worker_id}
        return self._database.execute(ENTRY, values).fetchone()

    def _entry(self, row: sqlite3.Row) -> EntryState:
        return EntryState(
            status=row["status"],
            fingerprint=row["fingerprint"],
            token=UUID(row["token"]),
            attempt=row["attempt"],
            crashes=row["crashes"],
            session_id=row["session_id"],
            response=row["response"],
            error_code=row["error_code"],
            error=row["error"],
            detail=row["detail"],
            received_at=datetime.fromisoformat(row["received_at"]),
            traceparent=row["traceparent"],
            parked=row["parked_at"] is not None,
            mine=row["holder"] == self._me.worker_id,
            expired=row["expires_at"] is not None and row["expires_at"] <= self._now,
            # If the clock was put back since it was changed, nobody knows how long ago that was: long enough.
            due_in=None if row["updated_at"] > self._now else self._until(row["next_attempt_at"]),
            gone_in=self._gone_in(row["holder_renewed_at"], row["holder_gone_at"]),
            takeover_in=self._takeover_in(row["my_steady_since"], row["my_gone_at"]),
            finished_for=-(self._until(row["finished_at"]) or 0.0),
        )

    def _after(self, seconds: float) -> str:
        return iso(self._clock + timedelta(seconds=seconds))

    def _gone_in(self, renewed_at: str | None, gone_at: str | None) -> float | None:
        # A worker that stands still is found by a monotonic clock, however far ahead its registration is.
        if renewed_at is None or gone_at is None:
            return None
        return min(_seconds(self._now, gone_at), _seconds(renewed_at, gone_at))

    def _takeover_in(self, steady_since: str | None, gone_at: str | None) -> float:
        # A worker that has not renewed itself in time was away or stopped: it takes nobody for gone.
        if steady_since is None or gone_at is None or gone_at <= self._now:
            return self._me.takeover_grace
        return self._me.takeover_grace - max(_seconds(steady_since, self._now), 0.0)

    def _until(self, moment: str | None) -> float | None:
        return None if moment is None else _seconds(self._now, moment)

    def _execute(self, sql: str, step: Step | None = None, **more: Any) -> int:
        """Run ``sql`` with what the step says, this worker's name and the clock reading; count the rows it
        wrote."""
        values = {} if step is None else {name: _plain(getattr(step, name)) for name in step.__slots__}  # type: ignore[union-attr]
        values |= more
        values["now"] = self._now
        values["worker"] = self._me.worker_id
        return self._database.execute(sql, values).rowcount

    _answers: ClassVar[Mapping[type, Callable[[Transaction, Any], Answer]]] = {
        Claim: _claim,
        Finish: _finish,
        Postpone: _postpone,
        Release: _release,
        ReplyNote: _note,
        Reopen: _reopen,
        Lookup: _look_up,
        CloseSession: _close_session,
    }


def _seconds(start: str, end: str) -> float:
    return (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds()


def _plain(value: object) -> object:
    return str(value) if isinstance(value, UUID) else value
