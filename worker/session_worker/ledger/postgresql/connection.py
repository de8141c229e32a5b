"""Connecting to a PostgreSQL ledger."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Any

import asyncpg

from session_client.net.diagnosis import Diagnosis, InvalidValueError
from session_client.net.failures import in_one_line
from session_worker.ledger.postgresql.errors import AWAY, UnusableError, explained
from session_worker.settings import postgresql_url

CONNECT_TIMEOUT = 5.0
COMMAND_TIMEOUT = 10.0
"""Seconds for one statement: then the connection is taken for dead (a network that swallows packets)."""
CLOSE_TIMEOUT = 2.0

_SERVER_SETTINGS = {
    "application_name": "session-worker",
    "timezone": "UTC",  # the times in the history are written by the server
    "tcp_keepalives_idle": "30",  # it may be idle for hours, and what lies between forgets it
    # Every statement finds its rows by key. Plans are made once, often on an empty table, and must hold when
    # it has grown; and only a nested loop takes its locks in the order of the batch.
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "jit": "off",
}


_YIELDING = {"application_name", "lock_timeout", "tcp_keepalives_idle"}
"""Settings of ours that may be others if the URL says so."""


async def connect(
    url: str,
    *,
    timeout: float | None = None,
    statement_timeout: float | None = None,
    lock_timeout: float | None = None,
) -> asyncpg.Connection:
    """A connection for the ledger's own statements. Raises one of AWAY.

    Connecting and each statement may take ``timeout`` seconds, or as long as usual if that is less. The
    server itself ends a statement after as long, or after ``statement_timeout`` seconds, and one that has
    waited ``lock_timeout`` seconds for a lock.
    """
    seconds = min(timeout or COMMAND_TIMEOUT, COMMAND_TIMEOUT)
    settings = {**_SERVER_SETTINGS, "statement_timeout": _milliseconds(statement_timeout or seconds)}
    if lock_timeout is not None:
        settings["lock_timeout"] = _milliseconds(lock_timeout)
    return await _connect(url, timeout, command_timeout=seconds, settings=settings)


async def connect_for_operators(url: str, *, statement_timeout: float | None = None) -> asyncpg.Connection:
    """A connection for an operator's statements. Each may take ``statement_timeout`` seconds (None: any
    time). Raises LedgerError."""
    settings = {"application_name": "session-worker", "timezone": "UTC"}
    if statement_timeout is not None:
        settings |= {"statement_timeout": _milliseconds(statement_timeout), "tcp_keepalives_idle": "30"}
    with explained(url):
        return await _connect(url, None, command_timeout=statement_timeout, settings=settings)


async def _connect(
    url: str, timeout: float | None, *, command_timeout: float | None, settings: dict[str, str]
) -> asyncpg.Connection:
    """Raises one of AWAY, whatever the driver raises."""
    try:
        target = postgresql_url.read(url)
    except InvalidValueError as error:
        diagnosis = Diagnosis(f"the ledger's URL cannot be used: {error.what}", error.fix)
        raise UnusableError(diagnosis) from None
    for name in sorted(target.settings & settings.keys()):
        if name not in _YIELDING:
            raise UnusableError(
                Diagnosis(f"the ledger's URL cannot be used: the worker sets {name} itself", "leave it out")
            )
        del settings[name]
    usual = target.connect_timeout or CONNECT_TIMEOUT
    timeout = min(timeout or usual, usual)
    try:
        return await _first_that_answers(
            target.url, timeout, command_timeout=command_timeout, server_settings=settings
        )
    except Exception as error:
        if isinstance(error, AWAY) and not (isinstance(error, OSError) and postgresql_url.unnamed_user(url)):
            raise
        raise UnusableError(_misread(error, url)) from error


async def _first_that_answers(url: str, timeout: float, **options: Any) -> asyncpg.Connection:
    """Try the hosts of ``url`` in order, each for its share of ``timeout``: the driver would spend all of it
    on one that accepts the connection and then says nothing."""
    *others, last = postgresql_url.one_by_one(url)
    timeout /= len(others) + 1
    for each in others:
        with suppress(OSError, asyncpg.CannotConnectNowError, asyncpg.TargetServerAttributeNotMatched):
            return await asyncpg.connect(each, timeout=timeout, **options)
    return await asyncpg.connect(last, timeout=timeout, **options)


def _misread(error: Exception, url: str) -> Diagnosis:
    """Say why the driver could not even try."""
    if postgresql_url.unnamed_user(url):
        return Diagnosis(
            f"the ledger's URL names no user, and user id {os.getuid()} has no name on this machine",
            "write postgresql://user@host/database, or set PGUSER",
        )
    return Diagnosis(
        "the ledger's URL cannot be used with what PostgreSQL's variables and files (~/.pgpass) say "
        f"({in_one_line(error)}{postgresql_url.variables()})",
        "correct them",
    )


def _milliseconds(seconds: float) -> str:
    return str(max(1, int(seconds * 1000)))  # 0 would be for ever


async def hang_up(connection: asyncpg.Connection) -> None:
    """Close the connection, politely if the server answers."""
    with suppress(*AWAY):
        await connection.close(timeout=CLOSE_TIMEOUT)
    connection.terminate()
