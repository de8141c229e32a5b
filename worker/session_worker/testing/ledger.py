"""A ledger in memory: what a SQLite ledger does, step by step, by a clock that can be moved on."""

from __future__ import annotations

import asyncio
import sqlite3
from datetime import timedelta
from typing import TYPE_CHECKING, Any, cast, get_args

from session_client.net.failures import in_one_line
from session_worker.ledger.batched import BatchedLedger, ReplyNote
from session_worker.ledger.migrations import IDENTITY
from session_worker.ledger.protocol import Opened, UnstorableError
from session_worker.ledger.registration import StandstillWatch
from session_worker.ledger.sessions import GetSession, ListSessions
from session_worker.ledger.sqlite.database import upgrade_schema
from session_worker.ledger.sqlite.reader import find_entry
from session_worker.ledger.sqlite.sessions import read
from session_worker.ledger.sqlite.transaction import Step, Transaction, utc_now

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime
    from uuid import UUID

    from session_worker.ledger.group_commit import GroupCommit
    from session_worker.ledger.reader import Entry
    from session_worker.ledger.registration import Registration
    from session_worker.ledger.sqlite.transaction import Answer


def empty_database() -> sqlite3.Connection:
    """The tables of a ledger, in memory, for whoever closes them."""
    database = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
    database.row_factory = sqlite3.Row
    upgrade_schema(database)
    return database


class MemoryLedger(BatchedLedger):
    """``Ledger`` in a SQLite database in memory. Each step is a transaction of its own, written at once."""

    def __init__(
        self,
        database: sqlite3.Connection,
        registration: Registration,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        super().__init__()
        self._database = database
        self._registration = registration
        self._clock = clock
        self._watch = StandstillWatch(registration)
        self._renewed_at: datetime | None = None
        self._is_cut_off = False
        kinds = (*get_args(Step), GetSession, ListSessions)
        self._groups = dict.fromkeys(kinds, cast("GroupCommit[Any, Any]", self))

    async def open(self) -> Opened:
        self._transact(Transaction.sweep)
        (identity,) = self._database.execute(IDENTITY).fetchone()
        return Opened(identity, "a ledger in memory", "new")

    async def close(self) -> None:
        self._transact(Transaction.leave)

    async def do(self, step: Step | GetSession | ListSessions) -> Any:
        """Answer one step or question.

        Raises:
            UnstorableError: the database cannot store its data.
        """
        if isinstance(step, GetSession | ListSessions):
            return read(self._database, [step])[0]
        return self._apply(step)

    def note(self, step: Step) -> None:
        self._apply(step)

    def note_sent(self, request_id: UUID, token: UUID) -> None:
        self.note(ReplyNote(request_id, token, "sent"))

    def cut_off(self) -> None:
        """Let this worker look as one that was killed: what it does from now on comes to nothing."""
        self._transact(Transaction.leave)
        self._is_cut_off = True

    def entry(self, request_id: UUID) -> Entry | None:
        """What is kept of a request."""
        return find_entry(self._database, request_id)

    def _apply(self, step: Step) -> Answer:
        try:
            return cast("Answer", self._transact(lambda transaction: transaction.apply(step)))
        except Exception as error:
            raise UnstorableError(in_one_line(error)) from error

    def _transact(self, act: Callable[[Transaction], Any]) -> Any:
        if self._is_cut_off:
            raise asyncio.CancelledError("this worker was killed")
        self._database.execute("BEGIN")
        try:
            transaction = Transaction(self._database, self._registration, self._clock)
            self._renew(transaction)
            answer = act(transaction)
        except BaseException:
            self._database.execute("ROLLBACK")
            raise
        self._database.execute("COMMIT")
        return answer

    def _renew(self, transaction: Transaction) -> None:
        """Stay registered, however far the clock was moved on."""
        now, interval = self._clock(), timedelta(seconds=self._registration.interval)
        if self._renewed_at is None or not self._renewed_at <= now < self._renewed_at + interval:
            transaction.renew(self._watch, gap=False)
            self._renewed_at = now
