"""The embedded ledger: one SQLite file, for workers on one machine."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, get_args

from session_client.net.threads import in_own_thread
from session_worker.ledger.batched import BatchedLedger
from session_worker.ledger.group_commit import GroupCommit
from session_worker.ledger.sessions import GetSession, ListSessions
from session_worker.ledger.sqlite.sessions import SessionReads
from session_worker.ledger.sqlite.transaction import Answer, Step
from session_worker.ledger.sqlite.writer_thread import WriterThread

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from session_worker.ledger.protocol import Opened
    from session_worker.ledger.registration import Registration
    from session_worker.telemetry.events import Emit

MIN_NOTES = 64
"""Notes that a transaction takes, however few steps: it holds up the next one by less than a millisecond."""


class SQLiteLedger(BatchedLedger):
    """``Ledger`` in a SQLite file. Steps of all kinds share its transactions, written by one thread;
    reads wait for none of them."""

    def __init__(self, path: Path, registration: Registration, emit: Emit) -> None:
        super().__init__()
        self._writer = WriterThread(path, registration, self._report)
        self._steps: GroupCommit[Step, Answer] = GroupCommit(
            self._commit, self._abandoned, emit, min_notes=MIN_NOTES
        )
        self._reads = SessionReads(path, self._writer.opening)
        self._groups = {
            **dict.fromkeys(get_args(Step), self._steps),
            GetSession: self._reads,
            ListSessions: self._reads,
        }
        self._loop: asyncio.AbstractEventLoop | None = None

    async def open(self) -> Opened:
        self._loop = asyncio.get_running_loop()
        return await in_own_thread(self._writer.open)

    async def close(self) -> None:
        self._lazy_notes.flush()
        timeout = self._close_timeout()
        await asyncio.gather(self._steps.close(timeout), self._reads.close(timeout))
        await in_own_thread(self._writer.stop)

    async def _commit(self, steps: Sequence[Step]) -> Sequence[Answer]:
        return await asyncio.wrap_future(self._writer.commit(steps))

    def _report(self, reason: str) -> None:
        with suppress(RuntimeError):  # the loop was closed before the ledger
            if self._loop is not None:
                self._loop.call_soon_threadsafe(self.availability.report, reason)
