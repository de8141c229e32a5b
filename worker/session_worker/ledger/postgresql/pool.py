"""The connections that carry the steps of a PostgreSQL ledger, and are made again when they are lost."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import asyncpg
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type

from session_worker.ledger.availability import BACKOFF
from session_worker.ledger.postgresql.connection import connect, hang_up
from session_worker.ledger.postgresql.errors import AWAY, COLLISIONS, UNSTORABLE, diagnose, explained
from session_worker.ledger.protocol import LockedError, TooSlowError, UnstorableError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class ReconnectingConnection:
    """One connection, for one statement at a time. When it is lost it is made again, however often.

    A connection that ended while it was idle is no outage: the next statement makes another. ``report`` is
    told why at every failed try, and an empty reason at every success. A statement that the server ends after
    ``statement_timeout`` seconds, or after ``lock_timeout`` seconds of waiting for a lock, is not repeated.
    """

    def __init__(
        self,
        url: str,
        report: Callable[[ReconnectingConnection, str], None],
        statement_timeout: float | None = None,
        lock_timeout: float | None = None,
    ) -> None:
        self._url = url
        self._statement_timeout = statement_timeout
        self._lock_timeout = lock_timeout
        self._report = report
        self._connection: asyncpg.Connection | None = None
        self._retrying = AsyncRetrying(
            retry=retry_if_exception_type(AWAY), wait=BACKOFF, before_sleep=self._failed_again, reraise=True
        )

    async def open(self) -> asyncpg.Connection:
        """Connect now. Raises LedgerError."""
        with explained(self._url):
            self._connection = await self._connect()
        return self._connection

    async def close(self) -> None:
        if self._connection is not None:
            connection, self._connection = self._connection, None
            await hang_up(connection)

    async def _connect(self) -> asyncpg.Connection:
        return await connect(
            self._url, statement_timeout=self._statement_timeout, lock_timeout=self._lock_timeout
        )

    async def fetch(self, sql: str, *values: object) -> list[asyncpg.Record]:
        """Run a statement that may be repeated: it is, until its answer arrives.

        Raises:
            UnstorableError: the database cannot store its data.
            LockedError: it has waited for a lock.
            TooSlowError: it takes too long.
        """
        try:
            records = await self._fetch(sql, values)
        except AWAY as error:
            self._failed(error)
            records = await self._retrying(self._fetch, sql, values)
        self._report(self, "")
        return records

    async def _fetch(self, sql: str, values: tuple[Any, ...]) -> list[asyncpg.Record]:
        try:
            if self._connection is None or self._connection.is_closed():
                self._connection = await self._connect()
            return await self._connection.fetch(sql, *values)
        except UNSTORABLE as error:
            self._report(self, "")
            raise UnstorableError(str(error)) from error
        except asyncpg.LockNotAvailableError as error:
            self._report(self, "")
            raise LockedError(str(error)) from error
        except COLLISIONS:
            raise
        except BaseException as error:
            if self._statement_timeout is not None and isinstance(error, asyncpg.QueryCanceledError):
                self._report(self, "")
                raise TooSlowError("the ledger needs too long for this") from error
            if self._connection is not None:
                self._connection.terminate()
                self._connection = None
            if isinstance(error, Exception) and not isinstance(error, AWAY):
                self._report(self, "")  # a defect is no outage
            raise

    def _failed_again(self, state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        if error is not None:
            self._failed(error)

    def _failed(self, error: BaseException) -> None:
        if not isinstance(error, COLLISIONS):
            self._report(self, str(diagnose(error, self._url)))


class ConnectionPool:
    """A few connections. The one that was used last is taken first: while one is enough, the server processes
    of the others sleep, and what it needs next is still in the processor's cache."""

    def __init__(self, connections: Sequence[ReconnectingConnection]) -> None:
        self._all = tuple(connections)
        self._free = list(connections)
        self._turn = asyncio.Semaphore(len(connections))

    async def open(self) -> asyncpg.Connection:
        """Connect the first of them now. Raises LedgerError."""
        return await self._free[-1].open()

    async def close(self) -> None:
        await asyncio.gather(*(each.close() for each in self._all))

    async def fetch(self, sql: str, *values: object) -> list[asyncpg.Record]:
        """See ``ReconnectingConnection.fetch``; waits for one that is free."""
        async with self._turn:
            connection = self._free.pop()
            try:
                return await connection.fetch(sql, *values)
            finally:
                self._free.append(connection)
