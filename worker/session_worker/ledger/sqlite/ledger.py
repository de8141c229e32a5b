"""The embedded ledger: one SQLite file, for workers on one machine."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, cast

from session_client.net.threads import in_own_thread
from session_worker.ledger.availability import Availability
from session_worker.ledger.base import Claim, Claimed, Look, Opened, Release, Reopen, Reopened, Step
from session_worker.ledger.group_commit import GroupCommit
from session_worker.ledger.notes import LazyNotes, Note
from session_worker.ledger.sqlite.writer import Writer
from session_worker.messages.identifiers import new_token

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from uuid import UUID

    from session_worker.ledger.base import ClaimAnswer, Finish, Postpone
    from session_worker.ledger.membership import Membership
    from session_worker.ledger.sqlite.steps import AnyAnswer, AnyStep
    from session_worker.telemetry.events import Emit

CLOSE_TIMEOUT = 5.0
"""Seconds that ``close`` lets waiting steps be committed."""
MIN_NOTES = 64
"""Notes that a transaction takes, however few steps: it holds up the next one by less than a millisecond."""


class SQLiteLedger:
    """``Ledger`` in a SQLite file. Steps of all kinds share its transactions, written by one thread."""

    def __init__(self, path: Path, membership: Membership, emit: Emit) -> None:
        self.availability = Availability()
        self._writer = Writer(path, membership, self._changed)
        self._steps: GroupCommit[AnyStep, AnyAnswer] = GroupCommit(
            self._commit, self._abandoned, emit, min_notes=MIN_NOTES
        )
        self._notes = LazyNotes(self._steps.note)
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

    async def finish(self, finish: Finish) -> Step:
        return cast("Step", await self._steps.do(finish))

    async def postpone(self, postpone: Postpone) -> int | Step:
        return cast("int | Step", await self._steps.do(postpone))

    async def release(self, release: Release) -> Step:
        return cast("Step", await self._steps.do(release))

    def note_sent(self, request_id: UUID, token: UUID) -> None:
        self._notes.sent(request_id, token)

    async def note_undeliverable(self, request_id: UUID, token: UUID) -> None:
        await self._steps.do(Note(request_id, token, "undeliverable"))

    async def note_parked(self, request_id: UUID, token: UUID) -> None:
        await self._steps.do(Note(request_id, token, "parked"))

    async def knows(self, request_id: UUID) -> bool:
        return cast("bool", await self._steps.do(Look(request_id)))

    async def reopen(self, request_id: UUID, fingerprint: bytes) -> Reopened:
        return cast("Reopened", await self._steps.do(Reopen(request_id, fingerprint, new_token())))

    async def _commit(self, steps: Sequence[AnyStep]) -> Sequence[AnyAnswer]:
        return await asyncio.wrap_future(self._writer.commit(steps))

    def _abandoned(self, step: AnyStep, answer: AnyAnswer) -> None:
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
