"""The embedded ledger: one SQLite file, for workers on one machine."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, cast

from session_client.net.threads import in_own_thread
from session_worker.ledger.availability import Availability
from session_worker.ledger.group_commit import GroupCommit
from session_worker.ledger.protocol import Claim, Claimed, Opened, Release, Reopen, Reopened, StepResult
from session_worker.ledger.reply_notes import LazyReplyNotes, ReplyNote
from session_worker.ledger.sqlite.transaction import Lookup
from session_worker.ledger.sqlite.writer_thread import WriterThread
from session_worker.messages.identifiers import new_token

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from uuid import UUID

    from session_worker.ledger.protocol import ClaimAnswer, Finish, Postpone
    from session_worker.ledger.registration import Registration
    from session_worker.ledger.sqlite.transaction import Answer, Step
    from session_worker.telemetry.events import Emit

CLOSE_TIMEOUT = 5.0
"""Seconds that ``close`` lets waiting steps be committed."""
MIN_NOTES = 64
"""Notes that a transaction takes, however few steps: it holds up the next one by less than a millisecond."""


class SQLiteLedger:
    """``Ledger`` in a SQLite file. Steps of all kinds share its transactions, written by one thread."""

    def __init__(self, path: Path, registration: Registration, emit: Emit) -> None:
        self.availability = Availability()
        self._writer = WriterThread(path, registration, self._changed)
        self._steps: GroupCommit[Step, Answer] = GroupCommit(
            self._commit, self._abandoned, emit, min_notes=MIN_NOTES
        )
        self._notes = LazyReplyNotes(self._steps.note)
        self._loop: asyncio.AbstractEventLoop | None = None

    async def open(self) -> Opened:
        self._loop = asyncio.get_running_loop()
        return await in_own_thread(self._writer.open)

    async def close(self) -> None:
        self._notes.flush()
        await self._steps.close(CLOSE_TIMEOUT if self.availability.up else 0)
        await in_own_thread(self._writer.stop)

    async def claim(self, claim: Claim) -> ClaimAnswer:
        return cast("ClaimAnswer", await self._steps.do(claim))

    async def finish(self, finish: Finish) -> StepResult:
        return cast("StepResult", await self._steps.do(finish))

    async def postpone(self, postpone: Postpone) -> int | StepResult:
        return cast("int | StepResult", await self._steps.do(postpone))

    async def release(self, release: Release) -> StepResult:
        return cast("StepResult", await self._steps.do(release))

    def note_sent(self, request_id: UUID, token: UUID) -> None:
        self._notes.sent(request_id, token)

    async def note_undeliverable(self, request_id: UUID, token: UUID) -> None:
        await self._steps.do(ReplyNote(request_id, token, "undeliverable"))

    async def note_parked(self, request_id: UUID, token: UUID) -> None:
        await self._steps.do(ReplyNote(request_id, token, "parked"))

    async def knows(self, request_id: UUID) -> bool:
        return cast("bool", await self._steps.do(Lookup(request_id)))

    async def reopen(self, request_id: UUID, fingerprint: bytes) -> Reopened:
        return cast("Reopened", await self._steps.do(Reopen(request_id, fingerprint, new_token())))

    async def _commit(self, steps: Sequence[Step]) -> Sequence[Answer]:
        return await asyncio.wrap_future(self._writer.commit(steps))

    def _abandoned(self, step: Step, answer: Answer) -> None:
        """Nobody will handle what a cancelled caller took: hand it back."""
        if isinstance(step, Claim) and isinstance(answer, Claimed):
            self._steps.note(Release(step.request_id, step.token))

    def _changed(self, reason: str | None) -> None:
        loop = self._loop
        if loop is None:
            return
        with suppress(RuntimeError):  # the loop was closed before the ledger
            if reason is None:
                loop.call_soon_threadsafe(self.availability.back)
            else:
                loop.call_soon_threadsafe(self.availability.lost, reason)
