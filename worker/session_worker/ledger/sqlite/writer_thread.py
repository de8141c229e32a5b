"""The one thread that writes to a SQLite ledger, and keeps this worker registered in it."""

from __future__ import annotations

import queue
import sqlite3
import threading
import time
from concurrent.futures import Future
from contextlib import suppress
from typing import TYPE_CHECKING

from tenacity import RetryCallState, Retrying, retry_if_exception_type, sleep_using_event, stop_when_event_set

from session_client.net.failures import in_one_line
from session_worker.ledger.availability import BACKOFF
from session_worker.ledger.migrations import IDENTITY
from session_worker.ledger.protocol import LedgerError, Opened, UnstorableError, holds
from session_worker.ledger.registration import StandstillWatch
from session_worker.ledger.sqlite.database import COUNTS, connect, diagnose, open_upgraded
from session_worker.ledger.sqlite.file_check import FileCheck, LostError
from session_worker.ledger.sqlite.transaction import Transaction
from session_worker.settings.default_ledger import sqlite_url

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from session_worker.ledger.registration import Registration
    from session_worker.ledger.sqlite.transaction import Answer, Step

_REFUSALS = (sqlite3.IntegrityError, sqlite3.DataError, sqlite3.InterfaceError, sqlite3.ProgrammingError)


class WriterThread:
    """Commits batches in a thread of its own, so the worker stays registered if its event loop is blocked.

    While the file cannot be written it keeps trying. ``report`` is called in the writer's thread: with the
    reason while it fails, and with an empty one when that is over.
    """

    def __init__(self, path: Path, registration: Registration, report: Callable[[str], None]) -> None:
        self._path = path
        self._registration = registration
        self._watch = StandstillWatch(registration)
        self._report = report
        self.opening = threading.Lock()
        """Held while the file is opened again; whoever else in this process opens it takes it first."""
        self._database: sqlite3.Connection | None = None
        self._files = FileCheck(path)
        self._jobs: queue.SimpleQueue[tuple[Sequence[Step], Future[list[Answer]]] | None]
        self._jobs = queue.SimpleQueue()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ledger writer", daemon=True)
        self._retrying = Retrying(
            retry=retry_if_exception_type(sqlite3.Error),
            wait=BACKOFF,
            sleep=sleep_using_event(self._stopping),
            stop=stop_when_event_set(self._stopping),
            before_sleep=self._failed_again,
            reraise=True,
        )
        self._renew_at = 0.0
        self._gap = False
        self._lost = False

    def open(self) -> Opened:
        """Open and upgrade the file, register this worker, start the thread. Raises LedgerError."""
        self._database, _ = open_upgraded(self._path)
        try:
            self._files.opened(self._database)
            self._transact([], sweep=True)
            counts = self._database.execute(COUNTS).fetchone()
            (identity,) = self._database.execute(IDENTITY).fetchone()
        except BaseException as error:
            self._disconnect()
            if isinstance(error, sqlite3.Error):
                raise LedgerError(diagnose(error, self._path)) from error
            raise
        self._thread.start()
        return Opened(identity, sqlite_url(self._path.absolute()), holds(*counts))

    def commit(self, steps: Sequence[Step]) -> Future[list[Answer]]:
        """Commit ``steps`` together. The future raises UnstorableError, or LedgerError once it is stopped."""
        future: Future[list[Answer]] = Future()
        self._jobs.put((steps, future))
        return future

    def stop(self) -> None:
        """End this worker's registration and the thread, close the file. Waits a busy timeout at most."""
        self._stopping.set()
        self._jobs.put(None)
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                job = self._jobs.get(timeout=max(0.0, self._renew_at - time.monotonic()))
            except queue.Empty:
                job = ([], Future())
            if job is not None:
                self._serve(*job)
        with suppress(sqlite3.Error):
            self._transact([], leave=True)
        self._disconnect()
        with suppress(queue.Empty):
            while True:
                job = self._jobs.get_nowait()
                if job is not None:
                    job[1].cancel()

    def _serve(self, steps: Sequence[Step], future: Future[list[Answer]]) -> None:
        if not future.set_running_or_notify_cancel():
            return
        try:
            answers = self._transact_at_last(steps)
        except sqlite3.Error:
            future.set_exception(LedgerError("the ledger was closed while it was away"))
        except Exception as error:  # noqa: BLE001 -- the thread must outlive every batch
            self._here()
            future.set_exception(error)
        else:
            self._here()
            future.set_result(answers)

    def _transact_at_last(self, steps: Sequence[Step]) -> list[Answer]:
        try:
            return self._transact(steps)
        except sqlite3.Error as error:
            self._away(error)
            return self._retrying(self._transact, steps)

    def _failed_again(self, state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        if isinstance(error, sqlite3.Error):
            self._away(error)

    def _away(self, error: sqlite3.Error) -> None:
        self._lost = True
        self._report(str(diagnose(error, self._path)))

    def _here(self) -> None:
        if self._lost:
            self._lost = False
            self._report("")

    def _transact(self, steps: Sequence[Step], *, sweep: bool = False, leave: bool = False) -> list[Answer]:
        try:
            return self._try(steps, sweep=sweep, leave=leave)
        except _REFUSALS as error:
            self._roll_back()
            raise UnstorableError(str(error)) from error
        except sqlite3.Error as error:
            self._gap = True
            try:
                self._let_go()
            except (sqlite3.Error, OSError) as unsaved:
                if isinstance(error, LostError):
                    raise sqlite3.OperationalError(str(unsaved)) from error
            raise
        except Exception as error:  # what sqlite3 cannot even bind: lone surrogates, too large numbers
            self._roll_back()
            raise UnstorableError(in_one_line(error)) from error

    def _try(self, steps: Sequence[Step], *, sweep: bool, leave: bool) -> list[Answer]:
        if self._database is None:
            self._database = self._connected()
        else:
            self._files.check(self._database)
        self._database.execute("BEGIN IMMEDIATE")
        self._files.check_names()  # again: another worker may have found them gone just before
        renewing = time.monotonic() >= self._renew_at
        transaction = Transaction(self._database, self._registration)
        if sweep:
            transaction.sweep()
        if leave:
            transaction.leave()
        elif renewing:
            transaction.renew(self._watch, gap=self._gap)
        answers = [transaction.apply(step) for step in steps]
        self._commit()
        self._files.check(self._database)  # before anybody is told
        if renewing:
            self._renew_at = time.monotonic() + self._registration.interval
            self._gap = False
        return answers

    def _commit(self) -> None:
        if self._database is not None:
            self._database.execute("COMMIT")

    def _connected(self) -> sqlite3.Connection:
        with self.opening:
            database = connect(self._path, "rw")  # a file that vanished is an outage, not a new ledger
            try:
                self._files.opened(database)
            except BaseException:
                database.close()
                raise
            return database

    def _let_go(self) -> None:
        """Disconnect once nothing is known to this connection alone; the next try connects anew."""
        if self._database is not None:
            self._roll_back()
            self._files.save(self._database)
            self._disconnect()

    def _roll_back(self) -> None:
        if self._database is not None and self._database.in_transaction:
            self._database.execute("ROLLBACK")

    def _disconnect(self) -> None:
        if self._database is not None:
            with suppress(sqlite3.Error):
                self._database.close()
            self._database = None
