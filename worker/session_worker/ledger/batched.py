"""What both ledgers do alike: each step goes to the group that commits it together with others."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Literal, cast

from session_worker.ledger.availability import Availability
from session_worker.ledger.protocol import Claim, Claimed, Finish, Postpone, Release, Reopen
from session_worker.ledger.sessions import CloseSession, GetSession, ListSessions
from session_worker.messages.identifiers import new_token
from session_worker.messages.immutable import immutable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from uuid import UUID

    from session_contracts import (
        ListSessionsPayload,
        SessionClosedPayload,
        SessionListPayload,
        SessionPayload,
    )
    from session_worker.ledger.group_commit import GroupCommit
    from session_worker.ledger.protocol import ClaimAnswer, Reopened, StepResult

CLOSE_TIMEOUT = 5.0
"""Seconds that ``close`` lets waiting steps be committed."""


LAZY = 0.25
"""Seconds that a note for which nobody waits may gather company: losing it costs one repeated reply."""


@immutable
class ReplyNote:
    """The reply was sent or cannot be delivered, or the request's copy is on the parking lot."""

    request_id: UUID
    token: UUID
    kind: Literal["sent", "undeliverable", "parked"]


@immutable
class Lookup:
    """Find out whether there is an entry; nothing is written."""

    request_id: UUID


class LazyReplyNotes:
    """Gathers what was sent and hands each over as one ReplyNote, ``LAZY`` seconds after the first."""

    def __init__(self, write: Callable[[ReplyNote], None]) -> None:
        self._write = write
        self._tokens: dict[UUID, UUID] = {}
        self._timer: asyncio.TimerHandle | None = None

    def sent(self, request_id: UUID, token: UUID) -> None:
        self._tokens[request_id] = token
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(LAZY, self.flush)

    def flush(self) -> None:
        """Hand over what has gathered, now."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        tokens, self._tokens = self._tokens, {}
        for request_id, token in tokens.items():
            self._write(ReplyNote(request_id, token, "sent"))


class BatchedLedger:
    """The steps of ``Ledger``. ``_groups`` has, for each kind of step or read, the group that does it."""

    _groups: Mapping[type, GroupCommit[Any, Any]]

    def __init__(self) -> None:
        self.availability = Availability()
        self._lazy_notes = LazyReplyNotes(lambda note: self._groups[ReplyNote].note(note))

    async def claim(self, claim: Claim) -> ClaimAnswer:
        return cast("ClaimAnswer", await self._groups[Claim].do(claim))

    async def finish(self, finish: Finish) -> StepResult:
        return cast("StepResult", await self._groups[Finish].do(finish))

    async def postpone(self, postpone: Postpone) -> int | StepResult:
        return cast("int | StepResult", await self._groups[Postpone].do(postpone))

    async def release(self, release: Release) -> StepResult:
        return cast("StepResult", await self._groups[Release].do(release))

    def note_sent(self, request_id: UUID, token: UUID) -> None:
        self._lazy_notes.sent(request_id, token)

    async def note_undeliverable(self, request_id: UUID, token: UUID) -> None:
        await self._groups[ReplyNote].do(ReplyNote(request_id, token, "undeliverable"))

    async def note_parked(self, request_id: UUID, token: UUID) -> None:
        await self._groups[ReplyNote].do(ReplyNote(request_id, token, "parked"))

    async def knows(self, request_id: UUID) -> bool:
        return cast("bool", await self._groups[Lookup].do(Lookup(request_id)))

    async def reopen(self, request_id: UUID, fingerprint: bytes) -> Reopened:
        return cast("Reopened", await self._groups[Reopen].do(Reopen(request_id, fingerprint, new_token())))

    async def get_session(self, session_id: str, user_id: str) -> SessionPayload | None:
        asked = GetSession(session_id, user_id)
        return cast("SessionPayload | None", await self._groups[GetSession].do(asked))

    async def list_sessions(self, asked: ListSessionsPayload, user_id: str) -> SessionListPayload:
        return cast("SessionListPayload", await self._groups[ListSessions].do(ListSessions(asked, user_id)))

    async def close_session(self, session_id: str, user_id: str) -> SessionClosedPayload | None:
        step = CloseSession(session_id, user_id)
        return cast("SessionClosedPayload | None", await self._groups[CloseSession].do(step))

    def _abandoned(self, step: object, answer: object) -> None:
        """Hand back what a cancelled caller took: nobody will handle it."""
        if isinstance(step, Claim) and isinstance(answer, Claimed):
            self._groups[Release].note(Release(step.request_id, step.token))

    def _close_timeout(self) -> float:
        return CLOSE_TIMEOUT if self.availability.up else 0
