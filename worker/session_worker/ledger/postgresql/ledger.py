"""The ledger in PostgreSQL, for many workers."""

from __future__ import annotations

import asyncio
from operator import attrgetter
from typing import TYPE_CHECKING, Any, TypeVar

from session_contracts import SessionListPayload
from session_worker.ledger.batched import BatchedLedger, Lookup, ReplyNote
from session_worker.ledger.group_commit import GroupCommit
from session_worker.ledger.postgresql.pool import ConnectionPool, ReconnectingConnection
from session_worker.ledger.postgresql.registration import RegistrationKeeper
from session_worker.ledger.postgresql.schema import check_grants, check_schema, opened, upgrade_database
from session_worker.ledger.postgresql.statements import (
    CLAIM,
    CLOSE_SESSION,
    ENTRIES,
    FINISH,
    LISTS,
    LOCKED,
    LOCKED_NAMED,
    LOCKED_SESSIONS,
    NOTE,
    POSTPONE,
    RELEASE,
    REOPEN,
    SESSIONS,
)
from session_worker.ledger.protocol import (
    Claim,
    Claimed,
    Finish,
    NotNow,
    Opened,
    Postpone,
    Release,
    Reopen,
    Reopened,
    StepResult,
)
from session_worker.ledger.rules import EntryState, unwritten, unwritten_postpone, unwritten_reopen
from session_worker.ledger.sessions import CloseSession, GetSession, ListSessions, SessionRow

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from uuid import UUID

    import asyncpg

    from session_contracts import SessionClosedPayload, SessionPayload, SessionSummary
    from session_worker.ledger.group_commit import HasRequestId
    from session_worker.ledger.protocol import ClaimAnswer
    from session_worker.ledger.registration import Registration
    from session_worker.telemetry.events import Emit

CONNECTIONS = 3
"""Claims and outcomes at the same time, and one for whatever else there is to write."""
READ_CONNECTIONS = 2
"""Sessions by their ids, and lists of them, which may take longer."""
READ_TIMEOUT = 5.0
"""Seconds for a read, less than until a connection is taken for dead. A user may have very many sessions."""
LOCK_TIMEOUT = 0.05
"""Seconds that a batch waits for a row of somebody else's, before what is free goes on without the others."""
_NO_LIMIT = 2**31 - 1

_CLAIM = attrgetter(
    *("request_id", "token", "fingerprint", "session_id", "user_id", "operation", "casefile_id", "title"),
    *("reply_to", "correlation_id", "traceparent", "time_to_live"),
)
_FINISH = attrgetter("request_id", "token", "status", "response", "error_code", "error", "detail", "session")
_RELEASE = attrgetter("request_id", "token")
_REOPEN = attrgetter("request_id", "fingerprint", "token")
_LIST = attrgetter("user_id", "asked.casefile_id", "asked.active_only", "asked.limit", "asked.offset")
_NOTE = attrgetter("request_id", "token", "kind")

_StepT = TypeVar("_StepT", Claim, Finish, Postpone, Release, Reopen)
_AnswerT = TypeVar("_AnswerT")


def _postpone(step: Postpone) -> tuple[Any, ...]:
    # The delays as text: in an array of arrays, all must have the same length.
    delays = f"{{{','.join(map(str, step.delays))}}}"
    return step.request_id, step.token, delays, step.error_code, step.detail


def _untaken(claim: Claim, entry: EntryState | None) -> ClaimAnswer:
    """The answer to a claim that took nothing."""
    later = NotNow(0.0, running=False)
    if entry is None:
        return later  # it was pruned since: the next delivery takes it
    answer = entry.answer(claim)
    became_free = isinstance(answer, Claimed) and entry.token != claim.token
    return later if became_free else answer


async def _sessions(
    pool: ConnectionPool, asked: Sequence[GetSession | CloseSession]
) -> list[SessionRow | None]:
    """The session that each of ``asked`` names, where it is there and its user's."""
    rows = await pool.fetch(SESSIONS, list({each.session_id for each in asked}))
    found = {(row[0], row[1]): SessionRow(*row) for row in rows}
    return [found.get((each.session_id, each.user_id)) for each in asked]


class PostgreSQLLedger(BatchedLedger):
    """``Ledger`` in PostgreSQL. Each batch of steps of one kind is one statement, hence one round trip.

    ``CONNECTIONS`` batches go at a time. Reads of sessions have connections of their own, and so has the
    registration.
    """

    def __init__(self, url: str, registration: Registration, emit: Emit, *, migrate: bool) -> None:
        super().__init__()
        self._url = url
        self._me = registration
        self._migrate = migrate
        self._away: set[object] = set()
        self._pool = ConnectionPool(
            [ReconnectingConnection(url, self._report, lock_timeout=LOCK_TIMEOUT) for _ in range(CONNECTIONS)]
        )
        self._read_pool = ConnectionPool(
            [ReconnectingConnection(url, self._report, READ_TIMEOUT) for _ in range(READ_CONNECTIONS)]
        )
        self._registration = RegistrationKeeper(url, registration, self._report)
        locked = self._locked
        self._groups = {
            Claim: GroupCommit(self._claim, self._abandoned, emit, locked=locked),
            Finish: GroupCommit(
                self._writing(FINISH, _FINISH, lambda _: StepResult.APPLIED, unwritten),
                emit=emit,
                locked=self._locked_to_finish,
            ),
            Postpone: GroupCommit(
                self._writing(POSTPONE, _postpone, lambda row: row[1], unwritten_postpone),
                emit=emit,
                locked=locked,
            ),
            Release: GroupCommit(
                self._writing(RELEASE, _RELEASE, lambda _: StepResult.APPLIED, unwritten),
                emit=emit,
                locked=locked,
            ),
            Reopen: GroupCommit(
                self._writing(REOPEN, _REOPEN, lambda _: Reopened.REOPENED, unwritten_reopen),
                emit=emit,
                locked=locked,
            ),
            ReplyNote: GroupCommit(self._note, emit=emit, locked=locked),
            CloseSession: GroupCommit(self._close_sessions, emit=emit, locked=self._locked_sessions),
            Lookup: GroupCommit(self._look_up, locked=locked),
            GetSession: GroupCommit(self._get_sessions),
            ListSessions: GroupCommit(self._list_sessions),
        }

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
        timeout = self._close_timeout()
        await self._groups[Claim].close(timeout)  # first: what it took for a cancelled caller is released
        await asyncio.gather(*(group.close(timeout) for group in self._groups.values()))
        await asyncio.gather(self._registration.leave(), self._pool.close(), self._read_pool.close())

    async def _claim(self, claims: Sequence[Claim]) -> list[ClaimAnswer]:
        limits = [_NO_LIMIT if claim.suspect_after is None else claim.suspect_after for claim in claims]
        values = (
            *zip(*map(_CLAIM, claims), strict=True),
            self._me.worker_id,
            limits,
            self._me.takeover_grace,
        )
        taken = await self._pool.fetch(CLAIM, *values)
        answers: dict[UUID, ClaimAnswer] = {request_id: Claimed(*rest) for request_id, *rest in taken}
        return await self._complete(claims, answers, _untaken)

    def _writing(
        self,
        sql: str,
        columns: Callable[[_StepT], tuple[Any, ...]],
        written: Callable[[asyncpg.Record], _AnswerT],
        unwritten: Callable[[_StepT, EntryState | None], _AnswerT],
    ) -> Callable[[Sequence[_StepT]], Awaitable[list[_AnswerT]]]:
        """What commits a batch by a statement that returns a row, with the id first, for each step that it
        wrote; and how the others ended."""

        async def commit(steps: Sequence[_StepT]) -> list[_AnswerT]:
            values = zip(*map(columns, steps), strict=True)
            rows = await self._pool.fetch(sql, *values, self._me.worker_id)
            return await self._complete(steps, {row[0]: written(row) for row in rows}, unwritten)

        return commit

    async def _complete(
        self,
        steps: Sequence[_StepT],
        answers: dict[UUID, _AnswerT],
        unwritten: Callable[[_StepT, EntryState | None], _AnswerT],
    ) -> list[_AnswerT]:
        """The answer to each step. What the statement did not write is looked up in a snapshot of its own."""
        if len(answers) < len(steps):
            others = [step for step in steps if step.request_id not in answers]
            entries = await self._entries([step.request_id for step in others])
            answers |= {step.request_id: unwritten(step, entries.get(step.request_id)) for step in others}
        return [answers[step.request_id] for step in steps]

    async def _locked(self, steps: Sequence[HasRequestId]) -> set[UUID]:
        rows = await self._pool.fetch(LOCKED, [step.request_id for step in steps])
        return {row[0] for row in rows}

    async def _locked_to_finish(self, steps: Sequence[Finish]) -> set[UUID]:
        rows = await self._pool.fetch(LOCKED_NAMED, [step.request_id for step in steps])
        return {row[0] for row in rows} | await self._locked(steps)

    async def _locked_sessions(self, steps: Sequence[CloseSession]) -> set[UUID]:
        rows = await self._pool.fetch(LOCKED_SESSIONS, [step.session_id for step in steps])
        locked = {row[0] for row in rows}
        return {step.request_id for step in steps if step.session_id in locked}

    async def _look_up(self, lookups: Sequence[Lookup]) -> list[bool]:
        entries = await self._entries([lookup.request_id for lookup in lookups])
        return [lookup.request_id in entries for lookup in lookups]

    async def _note(self, notes: Sequence[ReplyNote]) -> list[StepResult]:
        await self._pool.fetch(NOTE, *zip(*map(_NOTE, notes), strict=True))
        return [StepResult.APPLIED] * len(notes)

    async def _close_sessions(self, steps: Sequence[CloseSession]) -> list[SessionClosedPayload | None]:
        await self._pool.fetch(
            CLOSE_SESSION, [step.session_id for step in steps], [step.user_id for step in steps]
        )
        found = await _sessions(self._pool, steps)
        return [each.closed(each.closed_at) if each and each.closed_at else None for each in found]

    async def _get_sessions(self, reads: Sequence[GetSession]) -> list[SessionPayload | None]:
        found = await _sessions(self._read_pool, reads)
        return [None if each is None else each.payload() for each in found]

    async def _list_sessions(self, reads: Sequence[ListSessions]) -> list[SessionListPayload]:
        rows = await self._read_pool.fetch(LISTS, *zip(*map(_LIST, reads), strict=True))
        totals = {row[0]: row[1] for row in rows}
        pages: dict[int, list[SessionSummary]] = {number: [] for number in totals}
        for number, _, *columns in rows:
            if columns[0] is not None:
                pages[number].append(SessionRow(*columns).summary())
        return [
            SessionListPayload.model_construct(
                sessions=pages[number],
                total_count=totals[number],
                offset=each.asked.offset,
                limit=each.asked.limit,
            )
            for number, each in enumerate(reads, 1)
        ]

    async def _entries(self, request_ids: Sequence[UUID]) -> dict[UUID, EntryState]:
        """Those that are there."""
        rows = await self._pool.fetch(ENTRIES, request_ids, self._me.worker_id, self._me.takeover_grace)
        return {request_id: EntryState(*columns) for request_id, *columns in rows}

    def _report(self, who: object, reason: str) -> None:
        """Note that ``who`` does not reach the server, for this ``reason``, or (empty) that it does."""
        if reason:
            self._away.add(who)
        else:
            self._away.discard(who)
        if reason or not self._away:
            self.availability.report(reason)
