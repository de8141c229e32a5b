"""The ledger in PostgreSQL, for many workers."""

from __future__ import annotations

import asyncio
from operator import attrgetter
from typing import TYPE_CHECKING, Any, TypeVar

from session_worker.ledger.availability import Availability
from session_worker.ledger.group_commit import GroupCommit
from session_worker.ledger.postgresql.pool import ConnectionPool, ReconnectingConnection
from session_worker.ledger.postgresql.registration import RegistrationKeeper
from session_worker.ledger.postgresql.schema import check_grants, check_schema, opened, upgrade_database
from session_worker.ledger.postgresql.statements import (
    CLAIM,
    ENTRIES,
    FINISH,
    NOTE,
    POSTPONE,
    RELEASE,
    REOPEN,
)
from session_worker.ledger.protocol import (
    Claim,
    Claimed,
    Finish,
    InOtherHands,
    Opened,
    Postpone,
    Release,
    Reopen,
    Reopened,
    StepResult,
)
from session_worker.ledger.reply_notes import LazyReplyNotes, ReplyNote
from session_worker.ledger.rules import EntryState, unwritten, unwritten_postpone, unwritten_reopen
from session_worker.messages.identifiers import new_token

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Container, Sequence
    from uuid import UUID

    from session_worker.ledger.protocol import ClaimAnswer
    from session_worker.ledger.registration import Registration
    from session_worker.telemetry.events import Emit

CLOSE_TIMEOUT = 5.0
"""Seconds that ``close`` lets waiting steps be committed."""
CONNECTIONS = 3
"""Claims and outcomes at the same time, and one for whatever else there is to write."""
_NO_LIMIT = 2**31 - 1

_CLAIM = attrgetter(
    *("request_id", "token", "fingerprint", "session_id", "user_id", "operation", "casefile_id", "title"),
    *("reply_to", "correlation_id", "traceparent", "time_to_live"),
)
_FINISH = attrgetter("request_id", "token", "status", "response", "error_code", "error", "detail")
_RELEASE = attrgetter("request_id", "token")
_REOPEN = attrgetter("request_id", "fingerprint", "token")
_NOTE = attrgetter("request_id", "token", "kind")

_EndingT = TypeVar("_EndingT", Finish, Release)


def _postpone_columns(step: Postpone) -> tuple[Any, ...]:
    # The delays as text: in an array of arrays, all must have the same length.
    delays = f"{{{','.join(map(str, step.delays))}}}"
    return step.request_id, step.token, delays, step.error_code, step.detail


def _untaken(claim: Claim, entry: EntryState | None) -> ClaimAnswer:
    """The answer to a claim that took nothing."""
    later = InOtherHands(0.0, running=False)
    if entry is None:
        return later  # it was pruned since: the next delivery takes it
    answer = entry.answer(claim)
    became_free = isinstance(answer, Claimed) and entry.token != claim.token
    return later if became_free else answer


class PostgreSQLLedger:
    """``Ledger`` in PostgreSQL. Each batch of steps of one kind is one statement, hence one round trip.

    ``CONNECTIONS`` batches at a time; the register has a connection of its own.
    """

    def __init__(self, url: str, registration: Registration, emit: Emit, *, migrate: bool) -> None:
        self.availability = Availability()
        self._url = url
        self._me = registration
        self._migrate = migrate
        self._away: set[ReconnectingConnection | RegistrationKeeper] = set()
        self._pool = ConnectionPool(
            [ReconnectingConnection(url, self._lost, self._back) for _ in range(CONNECTIONS)]
        )
        self._registration = RegistrationKeeper(url, registration, self._lost, self._back)
        self._claims: GroupCommit[Claim, ClaimAnswer] = GroupCommit(self._claim, self._abandoned, emit)
        self._finishes = GroupCommit(self._writing(FINISH, _FINISH), emit=emit)
        self._postpones: GroupCommit[Postpone, int | StepResult] = GroupCommit(self._postpone, emit=emit)
        self._releases = GroupCommit(self._writing(RELEASE, _RELEASE), emit=emit)
        self._reopens: GroupCommit[Reopen, Reopened] = GroupCommit(self._reopen, emit=emit)
        self._notes: GroupCommit[ReplyNote, StepResult] = GroupCommit(self._note, emit=emit)
        self._lazy_notes = LazyReplyNotes(self._notes.note)

    async def open(self) -> Opened:
        if self._migrate:
            await upgrade_database(self._url)
        try:
            connection = await self._pool.open()
            await check_schema(connection, self._url)
            await check_grants(connection, self._url)
            about = await opened(connection, self._url)
            await self._registration.join()
        except BaseException:
            await self.close()
            raise
        return about

    async def close(self) -> None:
        self._lazy_notes.flush()
        timeout = CLOSE_TIMEOUT if self.availability.up else 0
        await self._claims.close(timeout)  # first: what it took for a cancelled caller is released
        groups = (self._finishes, self._postpones, self._releases, self._reopens, self._notes)
        await asyncio.gather(*(group.close(timeout) for group in groups))
        await asyncio.gather(self._registration.leave(), self._pool.close())

    async def claim(self, claim: Claim) -> ClaimAnswer:
        return await self._claims.do(claim)

    async def finish(self, finish: Finish) -> StepResult:
        return await self._finishes.do(finish)

    async def postpone(self, postpone: Postpone) -> int | StepResult:
        return await self._postpones.do(postpone)

    async def release(self, release: Release) -> StepResult:
        return await self._releases.do(release)

    def note_sent(self, request_id: UUID, token: UUID) -> None:
        self._lazy_notes.sent(request_id, token)

    async def note_undeliverable(self, request_id: UUID, token: UUID) -> None:
        await self._notes.do(ReplyNote(request_id, token, "undeliverable"))

    async def note_parked(self, request_id: UUID, token: UUID) -> None:
        await self._notes.do(ReplyNote(request_id, token, "parked"))

    async def knows(self, request_id: UUID) -> bool:
        return bool(await self._entries([request_id]))

    async def reopen(self, request_id: UUID, fingerprint: bytes) -> Reopened:
        return await self._reopens.do(Reopen(request_id, fingerprint, new_token()))

    async def _claim(self, claims: Sequence[Claim]) -> list[ClaimAnswer]:
        limits = [_NO_LIMIT if claim.suspect_after is None else claim.suspect_after for claim in claims]
        grace = self._me.takeover_grace
        taken = await self._pool.fetch(
            CLAIM, *zip(*map(_CLAIM, claims), strict=True), self._me.worker_id, limits, grace
        )
        answers: dict[UUID, ClaimAnswer] = {request_id: Claimed(*rest) for request_id, *rest in taken}
        if len(answers) < len(claims):
            others = [claim for claim in claims if claim.request_id not in answers]
            entries = await self._entries([claim.request_id for claim in others])  # in a snapshot of its own
            answers |= {claim.request_id: _untaken(claim, entries.get(claim.request_id)) for claim in others}
        return [answers[claim.request_id] for claim in claims]

    def _writing(
        self, sql: str, columns: Callable[[_EndingT], tuple[Any, ...]]
    ) -> Callable[[Sequence[_EndingT]], Awaitable[list[StepResult]]]:
        """What commits the steps that end a hold, by a statement that returns the ids of those it wrote."""

        async def commit(steps: Sequence[_EndingT]) -> list[StepResult]:
            values = zip(*map(columns, steps), strict=True)
            written = {row[0] for row in await self._pool.fetch(sql, *values, self._me.worker_id)}
            found = await self._unwritten(steps, written)
            return [
                StepResult.APPLIED
                if step.request_id in written
                else unwritten(step, found.get(step.request_id))
                for step in steps
            ]

        return commit

    async def _postpone(self, steps: Sequence[Postpone]) -> list[int | StepResult]:
        values = zip(*map(_postpone_columns, steps), strict=True)
        rows = await self._pool.fetch(POSTPONE, *values, self._me.worker_id)
        delays: dict[UUID, int] = {row[0]: row[1] for row in rows}
        found = await self._unwritten(steps, delays)
        return [
            delays[step.request_id]
            if step.request_id in delays
            else unwritten_postpone(step, found.get(step.request_id))
            for step in steps
        ]

    async def _reopen(self, steps: Sequence[Reopen]) -> list[Reopened]:
        written = await self._pool.fetch(REOPEN, *zip(*map(_REOPEN, steps), strict=True), self._me.worker_id)
        answers = dict.fromkeys((row[0] for row in written), Reopened.REOPENED)
        found = await self._unwritten(steps, answers)
        return [
            answers.get(step.request_id) or unwritten_reopen(step, found.get(step.request_id))
            for step in steps
        ]

    async def _note(self, notes: Sequence[ReplyNote]) -> list[StepResult]:
        await self._pool.fetch(NOTE, *zip(*map(_NOTE, notes), strict=True))
        return [StepResult.APPLIED] * len(notes)

    async def _entries(self, request_ids: Sequence[UUID]) -> dict[UUID, EntryState]:
        """Those that are there."""
        rows = await self._pool.fetch(ENTRIES, request_ids, self._me.worker_id, self._me.takeover_grace)
        return {request_id: EntryState(*columns) for request_id, *columns in rows}

    async def _unwritten(
        self, steps: Sequence[Finish | Postpone | Release | Reopen], written: Container[UUID]
    ) -> dict[UUID, EntryState]:
        """The entries of the requests that no step has ``written``."""
        others = [step.request_id for step in steps if step.request_id not in written]
        return await self._entries(others) if others else {}

    def _abandoned(self, claim: Claim, answer: ClaimAnswer) -> None:
        """Nobody will handle what a cancelled caller took: hand it back."""
        if isinstance(answer, Claimed):
            self._releases.note(Release(claim.request_id, claim.token))

    def _lost(self, who: ReconnectingConnection | RegistrationKeeper, reason: str) -> None:
        self._away.add(who)
        self.availability.lost(reason)

    def _back(self, who: ReconnectingConnection | RegistrationKeeper) -> None:
        if self._away:
            self._away.discard(who)
            if not self._away:
                self.availability.back()
