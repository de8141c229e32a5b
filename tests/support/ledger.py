"""What the ledger's tests share: steps to take, and a way into the tables past the ledger."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import asynccontextmanager, closing, contextmanager
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import asyncpg

from session_contracts import MOVES, ErrorCode, RequestStatus
from session_worker.ledger import open_ledger, open_reader
from session_worker.ledger.protocol import Claim, Claimed, Finish, Ledger, Postpone, Release
from session_worker.ledger.registration import Registration
from session_worker.ledger.sqlite.database import path_of
from session_worker.ledger.sqlite.reader import find_entry
from session_worker.telemetry.events import unheard
from session_worker.testing.ledger import MemoryLedger, empty_database

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from session_worker.ledger.reader import Entry
    from session_worker.telemetry.events import Emit

FINGERPRINT = b"\x01" * 32
DEADLINE = 20.0
"""Seconds after which a test gives up waiting for what must happen."""


def a_claim(request_id: UUID | None = None, **changes: Any) -> Claim:
    """A claim of a new request, or of ``request_id`` again, under a fresh token."""
    values: dict[str, Any] = {
        "request_id": request_id or uuid4(),
        "fingerprint": FINGERPRINT,
        "token": uuid4(),
        "session_id": f"ts_261122_{uuid4().hex[:12]}",
        "user_id": "ada@example.com",
        "operation": "create_session",
        "casefile_id": "cf_261122_abc",
        "title": "A title",
        "reply_to": "session.replies.ada",
        "correlation_id": "correlation",
    }
    return Claim(**{**values, **changes})


def completed(claim: Claim, response: bytes = b"the answer", **changes: Any) -> Finish:
    """The outcome ``completed`` for what ``claim`` took, with a session unless ``session`` is None."""
    values: dict[str, Any] = {"token": claim.token, "session": "{}"} | changes
    return Finish(claim.request_id, status=RequestStatus.COMPLETED, response=response, **values)


def failed(claim: Claim, code: ErrorCode = ErrorCode.HANDLER_FAILED, **changes: Any) -> Finish:
    """The outcome ``failed`` for what ``claim`` took."""
    token = changes.pop("token", claim.token)
    return Finish(
        claim.request_id, token, RequestStatus.FAILED, b"sorry", code, "It failed.", "ValueError: no"
    )


def postponed(claim: Claim, *delays: int) -> Postpone:
    """Another attempt at what ``claim`` took, after one of ``delays``, or a minute."""
    return Postpone(
        claim.request_id, claim.token, delays or (60,), ErrorCode.HANDLER_FAILED, "ValueError: no"
    )


def released(claim: Claim) -> Release:
    """What ``claim`` took, handed back."""
    return Release(claim.request_id, claim.token)


@asynccontextmanager
async def worker(
    url: str,
    worker_id: str = "",
    *,
    holder_timeout: float = 15.0,
    takeover_grace: float | None = 0.0,
    emit: Emit = unheard,
) -> AsyncIterator[Ledger]:
    """The open ledger of a worker that, unlike real ones, takes over at once."""
    worker_id = worker_id or f"worker-{uuid4().hex[:6]}"
    if url in NO_FILES:
        grace = holder_timeout if takeover_grace is None else takeover_grace
        ledger: Ledger = MemoryLedger(NO_FILES[url], Registration(worker_id, holder_timeout, grace))
    else:
        ledger = open_ledger(
            url,
            worker_id=worker_id,
            holder_timeout=holder_timeout,
            takeover_grace=takeover_grace,
            emit=emit,
        )
    await ledger.open()
    try:
        yield ledger
    finally:
        await ledger.close()


NO_FILES: dict[str, sqlite3.Connection] = {}
"""What a test knows by a URL and is in no file."""


@contextmanager
def no_file() -> Iterator[str]:
    """What stands for a URL of the ledger in memory, for one test."""
    url = f"sqlite in memory: {uuid4().hex}"
    with closing(empty_database()) as NO_FILES[url]:
        yield url
    del NO_FILES[url]


MEMORY = Path("/dev/shm")


@contextmanager
def sqlite_in_memory() -> Iterator[str]:
    """The URL of a ledger that is not there yet: to open it takes 2 ms, a step a quarter of one."""
    with TemporaryDirectory(prefix="ledger-", dir=MEMORY if MEMORY.is_dir() else None) as folder:
        yield f"sqlite:///{folder}/ledger.db"


@asynccontextmanager
async def ledger_in_memory(worker_id: str = "") -> AsyncIterator[Ledger]:
    """The open SQLite ledger, in memory, of a worker that takes over at once."""
    with sqlite_in_memory() as url:
        async with worker(url, worker_id) as ledger:
            yield ledger


async def take(ledger: Ledger, request_id: UUID | None = None, **changes: Any) -> Claim:
    """Claim a request that must be ours, and return the claim."""
    claim = a_claim(request_id, **changes)
    answer = await ledger.claim(claim)
    assert isinstance(answer, Claimed), answer
    return claim


async def entry(url: str, request_id: UUID) -> Entry:
    """The entry of a request that must be there."""
    if url in NO_FILES:
        there = find_entry(NO_FILES[url], request_id)
        assert there is not None
        return there
    reader = open_reader(url)
    await reader.open()
    try:
        found = await reader.get(request_id)
        assert found is not None
        return found
    finally:
        await reader.close()


async def sql(url: str, statement: str) -> list[tuple[Any, ...]]:
    """Run a statement past the ledger."""
    if url in NO_FILES:
        return [tuple(row) for row in NO_FILES[url].execute(statement)]
    if url.startswith("sqlite"):
        with closing(sqlite3.connect(path_of(url), timeout=DEADLINE)) as database, database:
            return database.execute(statement).fetchall()
    connection = await asyncpg.connect(url)
    try:
        return [tuple(row) for row in await connection.fetch(statement)]
    finally:
        await connection.close()


async def becomes(url: str, statement: str, rows: list[tuple[Any, ...]]) -> None:
    """Wait until ``statement`` returns ``rows``."""
    async with asyncio.timeout(DEADLINE):
        while await sql(url, statement) != rows:
            await asyncio.sleep(0.02)


async def shift(url: str, place: str, seconds: float, where: str) -> None:
    """Move the time in ``place`` (table.column) by ``seconds``: as if the clock had gone on without us."""
    table, column = place.split(".")
    if url.startswith("sqlite"):
        ((old,),) = await sql(url, f"SELECT {column} FROM {table} WHERE {where}")
        new = (datetime.fromisoformat(old) + timedelta(seconds=seconds)).isoformat(timespec="microseconds")
        await sql(url, f"UPDATE {table} SET {column} = '{new}' WHERE {where}")
    else:
        await sql(url, f"UPDATE {table} SET {column} = {column} + interval '1 s' * {seconds} WHERE {where}")


async def bury(url: str, worker_id: str) -> None:
    """Let a worker that is still open look as dead as one that was killed long ago."""
    await sql(url, f"DELETE FROM workers WHERE worker_id = '{worker_id}'")


def check_moves(found: Entry) -> None:
    """Its history has only moves that the table has, in order of time, and ends with its status."""
    statuses = [each["status"] for each in found.history]
    moves = list(pairwise([None, *statuses]))
    assert set(moves) <= {(move.before, move.after) for move in MOVES}, moves
    times = [datetime.fromisoformat(each["at"]) for each in found.history]
    assert times == sorted(times)
    assert statuses[-1] == found.status
