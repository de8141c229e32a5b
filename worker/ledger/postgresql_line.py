"""Connections to a PostgreSQL ledger, and what their errors mean."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import asyncpg
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type

from contracts.trouble import tls_trouble
from worker.ledger.availability import BACKOFF
from worker.ledger.base import LedgerError
from worker.ledger.group_commit import RefusedError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

CONNECT_TIMEOUT = 5.0
COMMAND_TIMEOUT = 10.0
"""Seconds for one statement: then the connection is taken for dead (a network that swallows packets)."""
CLOSE_TIMEOUT = 2.0

AWAY = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)
_REFUSALS = (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError, asyncpg.ProgramLimitExceededError)
_COLLISIONS = (asyncpg.DeadlockDetectedError, asyncpg.SerializationError)

_SERVER_SETTINGS = {
    "application_name": "session-worker",
    "timezone": "UTC",  # the times in the history are written by the server
    "tcp_keepalives_idle": "30",  # a line may be idle for hours, and what lies between forgets it
    # Every statement finds its rows by key. Plans are made once, often on an empty table, and must hold when
    # it has grown; and only a nested loop takes its locks in the order of the batch.
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "jit": "off",
}


async def connect(url: str, *, patience: float = COMMAND_TIMEOUT) -> asyncpg.Connection:
    """A connection for the ledger's own statements. Raises one of AWAY.

    Connecting and each statement may take ``patience`` seconds, and never longer than they usually may.
    """
    seconds = min(patience, COMMAND_TIMEOUT)
    settings = {**_SERVER_SETTINGS, "statement_timeout": _milliseconds(seconds)}
    return await asyncpg.connect(
        url, timeout=min(patience, CONNECT_TIMEOUT), command_timeout=seconds, server_settings=settings
    )


async def connect_for_people(url: str, *, patience: float | None = None) -> asyncpg.Connection:
    """A connection for an operator's statements, which may take their time: ``patience`` seconds each, or as
    long as they need. Raises LedgerError."""
    settings = {"application_name": "session-worker", "timezone": "UTC"}
    if patience is not None:
        settings |= {"statement_timeout": _milliseconds(patience), "tcp_keepalives_idle": "30"}
    try:
        return await asyncpg.connect(
            url, timeout=CONNECT_TIMEOUT, command_timeout=patience, server_settings=settings
        )
    except (*AWAY, ValueError, OverflowError) as error:  # the last one: a port that is too large
        raise LedgerError(sentence(error, url)) from error


def _milliseconds(seconds: float) -> str:
    return str(max(1, int(seconds * 1000)))  # 0 would be for ever


async def hang_up(connection: asyncpg.Connection) -> None:
    """Close the connection, politely if the server answers."""
    with suppress(*AWAY):
        await connection.close(timeout=CLOSE_TIMEOUT)
    connection.terminate()


def place_of(url: str) -> str:
    """Host, port and database of ``url``, for people."""
    parts = urlsplit(url)
    return f"{parts.netloc.rpartition('@')[2] or 'localhost'}{parts.path}"


def sentence(error: BaseException, url: str) -> str:
    """What ``error`` means for the ledger at ``url``, without the password."""
    # Two of ours are ValueErrors as well: a certificate that is refused, and a parameter of the URL.
    if isinstance(error, ValueError | OverflowError) and not isinstance(error, AWAY):
        return "the ledger's URL cannot be read: write postgresql://user:password@host:5432/database"
    parts, place = urlsplit(url), place_of(url)
    if trouble := _about_tls(error, place, parts.query):
        return trouble
    match error:
        case asyncpg.InvalidAuthorizationSpecificationError():
            what = "refuses the user or the password: correct them in the ledger's URL"
        case asyncpg.InvalidCatalogNameError():
            what = "has no such database: create it, or correct the ledger's URL"
        case asyncpg.InsufficientPrivilegeError():
            user = f"user {unquote(parts.username)}" if parts.username else "this user"
            what = f"does not permit it to {user} ({error}): docs/security.md has the grants for each role"
        case asyncpg.ReadOnlySQLTransactionError():
            what = "is read-only, as a standby is: name the primary in the ledger's URL"
        case socket.gaierror():
            what = "cannot be found: correct the host in the ledger's URL"
        case TimeoutError():
            what = "does not answer in time: check the network and the server"
        case OSError():
            what = "cannot be reached: check that the server runs, and the host and port in the ledger's URL"
        case _:
            what = f"cannot be used: {error}".replace("\n", " ")
    return f"the ledger's PostgreSQL at {place} {what}"


def _about_tls(error: BaseException, place: str, query: str) -> str | None:
    if trouble := tls_trouble(error, place, "sslrootcert"):
        return f"the ledger's PostgreSQL: {trouble}"
    match error:
        case asyncpg.ClientConfigurationError():
            return f"the ledger's URL cannot be used: {error}".partition("\n")[0]
        case FileNotFoundError() | PermissionError() if "ssl" in query:
            return f"a file that the ledger's URL names cannot be read ({error.strerror}): correct its path"
        case ConnectionError() if "SSL" in str(error):
            return (
                f"the ledger's PostgreSQL at {place} does not offer TLS: switch it on there (ssl = on), or "
                "change sslmode in the ledger's URL"
            )
    return None


class Line:
    """One connection, for one statement at a time; it is made again, for ever, when it is lost.

    A connection that ended while nobody used it, maybe long ago, is nobody's outage: the next statement makes
    another one.

    ``away`` hears at every failed try why; ``here`` hears of every success.
    """

    def __init__(self, url: str, away: Callable[[Line, str], None], here: Callable[[Line], None]) -> None:
        self._url = url
        self._away = away
        self._here = here
        self._connection: asyncpg.Connection | None = None
        self._retrying = AsyncRetrying(
            retry=retry_if_exception_type(AWAY), wait=BACKOFF, before_sleep=self._failed_again, reraise=True
        )

    async def open(self) -> asyncpg.Connection:
        """Connect now. Raises LedgerError."""
        try:
            self._connection = await connect(self._url)
        except (*AWAY, ValueError, OverflowError) as error:  # the last one: a port that is too large
            raise LedgerError(sentence(error, self._url)) from error
        return self._connection

    async def close(self) -> None:
        if self._connection is not None:
            connection, self._connection = self._connection, None
            await hang_up(connection)

    async def fetch(self, sql: str, *values: object) -> list[asyncpg.Record]:
        """Run a statement that may be repeated: it is, until its answer arrives. Raises RefusedError."""
        try:
            records = await self._fetch(sql, values)
        except AWAY as error:
            self._failed(error)
            records = await self._retrying(self._fetch, sql, values)
        self._here(self)
        return records

    async def _fetch(self, sql: str, values: tuple[Any, ...]) -> list[asyncpg.Record]:
        try:
            if self._connection is None or self._connection.is_closed():
                self._connection = await connect(self._url)
            return await self._connection.fetch(sql, *values)
        except _REFUSALS as error:
            self._here(self)
            raise RefusedError(str(error)) from error
        except _COLLISIONS:
            raise
        except BaseException as error:
            if self._connection is not None:
                self._connection.terminate()
                self._connection = None
            if isinstance(error, Exception) and not isinstance(error, AWAY):
                self._here(self)  # a defect, whoever's, is no outage
            raise

    def _failed_again(self, state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        if error is not None:
            self._failed(error)

    def _failed(self, error: BaseException) -> None:
        if not isinstance(error, _COLLISIONS):
            self._away(self, sentence(error, self._url))


class Lines:
    """A few lines. The one that was used last goes first: while one is enough, the others' server processes
    sleep, and what it needs next is still in the processor's cache."""

    def __init__(self, lines: Sequence[Line]) -> None:
        self._all = tuple(lines)
        self._free = list(lines)
        self._turn = asyncio.Semaphore(len(lines))

    async def open(self) -> asyncpg.Connection:
        """Connect the first of them now. Raises LedgerError."""
        return await self._free[-1].open()

    async def close(self) -> None:
        await asyncio.gather(*(line.close() for line in self._all))

    async def fetch(self, sql: str, *values: object) -> list[asyncpg.Record]:
        """See ``Line.fetch``; waits for a line that is free."""
        async with self._turn:
            line = self._free.pop()
            try:
                return await line.fetch(sql, *values)
            finally:
                self._free.append(line)
