"""Connections to a PostgreSQL ledger, and what their errors mean."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import asyncpg
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type

from session_client.net.trouble import tls_trouble, why_lost, words
from session_worker.ledger.availability import BACKOFF
from session_worker.ledger.base import LedgerError
from session_worker.ledger.group_commit import RefusedError
from session_worker.settings import postgresql_url

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


_NETWORK = (None, errno.EHOSTUNREACH, errno.ENETUNREACH)
_YIELDING = {"application_name", "tcp_keepalives_idle"}
"""Settings of ours that may be others if the URL says so."""


_MEANINGS: dict[type[BaseException], str] = {
    asyncpg.InvalidAuthorizationSpecificationError: (
        "refuses the user or the password: correct them in the ledger's URL"
    ),
    asyncpg.InvalidCatalogNameError: "has no such database: create it, or correct the ledger's URL",
    asyncpg.ReadOnlySQLTransactionError: (
        "is read-only, as a standby is: name the primary in the ledger's URL"
    ),
    asyncpg.InternalClientError: "ended the connection: it may be restarting; its log says why",
    asyncpg.ConnectionDoesNotExistError: "ended the connection: it may be restarting; its log says why",
    socket.gaierror: "cannot be found: correct the host in the ledger's URL",
    TimeoutError: "does not answer in time: check the network and the server",
    OSError: "cannot be reached: check that the server runs, and the host and port in the ledger's URL",
}


class UnusableError(asyncpg.InterfaceError):
    """The URL, or what PostgreSQL's variables and files add to it, cannot be used; a sentence."""


async def connect(url: str, *, patience: float | None = None) -> asyncpg.Connection:
    """A connection for the ledger's own statements. Raises one of AWAY.

    Connecting and each statement may take ``patience`` seconds, and never longer than they usually may.
    """
    seconds = min(patience or COMMAND_TIMEOUT, COMMAND_TIMEOUT)
    settings = {**_SERVER_SETTINGS, "statement_timeout": _milliseconds(seconds)}
    return await _connect(url, patience, command_timeout=seconds, settings=settings)


async def connect_for_people(url: str, *, patience: float | None = None) -> asyncpg.Connection:
    """A connection for an operator's statements, which may take their time: ``patience`` seconds each, or as
    long as they need. Raises LedgerError."""
    settings = {"application_name": "session-worker", "timezone": "UTC"}
    if patience is not None:
        settings |= {"statement_timeout": _milliseconds(patience), "tcp_keepalives_idle": "30"}
    try:
        return await _connect(url, None, command_timeout=patience, settings=settings)
    except AWAY as error:
        raise LedgerError(sentence(error, url)) from error


async def _connect(
    url: str, patience: float | None, *, command_timeout: float | None, settings: dict[str, str]
) -> asyncpg.Connection:
    """Raises one of AWAY, whatever the driver raises."""
    try:
        target = postgresql_url.read(url)
    except ValueError as error:
        raise UnusableError(f"the ledger's URL cannot be used: {error}") from None
    for name in sorted(target.settings & settings.keys()):
        if name not in _YIELDING:
            raise UnusableError(
                f"the ledger's URL cannot be used: the worker sets {name} itself; leave it out"
            )
        del settings[name]
    usual = target.patience or CONNECT_TIMEOUT
    try:
        return await asyncpg.connect(
            target.url,
            timeout=min(patience or usual, usual),
            command_timeout=command_timeout,
            server_settings=settings,
        )
    except Exception as error:
        if isinstance(error, AWAY) and not (isinstance(error, OSError) and postgresql_url.unnamed_user(url)):
            raise
        raise UnusableError(_misread(error, url)) from error


def _misread(error: Exception, url: str) -> str:
    """Say why the driver could not even try."""
    if postgresql_url.unnamed_user(url):
        return (
            f"the ledger's URL names no user, and user id {os.getuid()} has no name on this machine; write "
            "postgresql://user@host/database, or set PGUSER"
        )
    return (
        "the ledger's URL cannot be used with what PostgreSQL's variables and files (~/.pgpass) say "
        f"({words(error)}{postgresql_url.variables()}); correct them"
    )


def _milliseconds(seconds: float) -> str:
    return str(max(1, int(seconds * 1000)))  # 0 would be for ever


async def hang_up(connection: asyncpg.Connection) -> None:
    """Close the connection, politely if the server answers."""
    with suppress(*AWAY):
        await connection.close(timeout=CLOSE_TIMEOUT)
    connection.terminate()


def sentence(error: BaseException, url: str) -> str:
    """What ``error`` means for the ledger at ``url``, without the password."""
    if isinstance(error, UnusableError):
        return str(error)
    parts, place = urlsplit(url), postgresql_url.place_of(url)
    if trouble := _about_tls(error, place, url):
        return trouble
    if isinstance(error, asyncpg.InsufficientPrivilegeError):
        user = f"user {unquote(parts.username)}" if parts.username else "this user"
        what = f"does not permit it to {user} ({error}): docs/security.md has the grants for each role"
    elif isinstance(error, OSError) and place.startswith("socket "):
        what = "cannot be reached: check that the server runs, and that its socket is in that folder"
    else:
        said = " ".join(str(error).split()) or why_lost(error)
        what = next(
            (meaning for kind, meaning in _MEANINGS.items() if isinstance(error, kind)),
            f"cannot be used: {said}",
        )
    return f"the ledger's PostgreSQL at {place} {what}"


def _about_tls(error: BaseException, place: str, url: str) -> str | None:
    if trouble := tls_trouble(error, place, "sslrootcert"):
        return f"the ledger's PostgreSQL: {trouble}"
    match error:
        case asyncpg.ClientConfigurationError():
            said = str(error).partition("\n")[0]
            fix = "correct it"
            if "root certificate" in said:
                fix = "name the authority's file: ?sslrootcert=/path/ca.pem"
            return f"the ledger's URL cannot be used: {said}{postgresql_url.variables()}; {fix}"
        case OSError(errno=number) if (
            number not in _NETWORK
            and not isinstance(error, ConnectionError | TimeoutError | socket.gaierror)
            and not place.startswith("socket ")
            and (file := postgresql_url.unreadable_file(url))
        ):
            return f"a file for TLS with the ledger's PostgreSQL cannot be read: {file}"
        case ConnectionError() if "rejected SSL" in str(error):
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
        except AWAY as error:
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
