"""Holds the ledger, by SQL of its own, against the requesters' book. It shares no code with the worker."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from contextlib import closing
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import asyncpg

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from tests.faults.book import Answer, Book, Sending

MOVES = {
    (None, "pending"),
    ("pending", "processing"),
    ("processing", "pending"),
    ("processing", "completed"),
    ("processing", "failed"),
    ("pending", "failed"),
}
NOT_PARKED = {"completed", "rejected", "expired"}
_REQUESTS = (
    "SELECT request_id, status, attempt, crashes, session_id, error_code, response, operation, parked_at, "
    "history "
    "FROM requests"
)
_SESSIONS = "SELECT request_id, session_id FROM sessions"


class AuditError(AssertionError):
    """The promise was broken for one request (``request_id``), or for all (None)."""

    def __init__(self, request_id: str | None, what: str) -> None:
        super().__init__(f"{request_id}: {what}")
        self.request_id = request_id


@dataclass(frozen=True)
class Row:
    """What the ledger says of one request."""

    request_id: str
    status: str
    attempt: int
    crashes: int
    session_id: str | None
    error_code: str | None
    response: bytes | None
    operation: str
    parked: bool
    history: list[dict[str, Any]]

    @property
    def outcome(self) -> str:
        return "completed" if self.status == "completed" else str(self.error_code)


@dataclass(frozen=True)
class Ledger:
    """The two tables as they were read."""

    requests: Mapping[str, Row]
    sessions: list[tuple[str, str]]


async def read(url: str) -> Ledger:
    """Read both tables of a ledger."""
    if url.startswith("sqlite:///"):
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"), timeout=30)) as database:
            rows: Iterable[Any] = database.execute(_REQUESTS).fetchall()
            sessions: Iterable[Any] = database.execute(_SESSIONS).fetchall()
    else:
        connection = await asyncpg.connect(url)
        try:
            rows, sessions = await connection.fetch(_REQUESTS), await connection.fetch(_SESSIONS)
        finally:
            await connection.close()
    found = [
        Row(str(row[0]), *row[1:8], row[8] is not None, json.loads(row[9]))  # type: ignore[call-arg]
        for row in map(tuple, rows)
    ]
    return Ledger({row.request_id: row for row in found}, [(str(row[0]), row[1]) for row in sessions])


def check(book: Book, ledger: Ledger, max_crashes: int = 3) -> None:
    """Raises AuditError for the first request for which the promise does not hold."""
    session_ids = dict(ledger.sessions)
    sessions = Counter(request_id for request_id, _ in ledger.sessions)
    for sending in book.unanswered:
        raise AuditError(sending.request_id, f"never answered: {sending}")
    for request_id in ledger.requests.keys() - book.request_ids:
        raise AuditError(request_id, "is in the ledger and was never sent")
    for row in ledger.requests.values():
        _check_row(row, sessions[row.request_id], session_ids.get(row.request_id))
    for sending in book.sendings.values():
        _check_sending(sending, book.answers[sending.correlation_id], ledger, max_crashes)
    for request_id in book.request_ids:
        _check_answers(request_id, book, ledger.requests.get(request_id))


def _check_row(row: Row, sessions: int, session_id: str | None) -> None:
    def demand(condition: object, what: str) -> None:
        if not condition:
            raise AuditError(row.request_id, f"{what}: {row}")

    demand(row.status in {"completed", "failed"}, "has no outcome")
    creates = row.operation == "create_session"
    demand(sessions == (creates and row.status == "completed"), f"has {sessions} sessions")
    demand(session_id in {None, row.session_id}, f"its session is {session_id}, reserved was another")
    statuses = [None, *(entry["status"] for entry in row.history)]
    illegal = [move for move in pairwise(statuses) if move not in MOVES]
    demand(not illegal, f"illegal moves {illegal}")
    demand(statuses[-1] == row.status, "its history ends otherwise")
    times = [entry["at"] for entry in row.history]
    demand(times == sorted(times), "its history goes back in time")
    gone = [entry for entry in row.history if str(entry["detail"]).endswith(" is gone")]
    demand(len(gone) == row.crashes, f"{len(gone)} crashes in its history")
    demand(row.parked == (row.outcome not in NOT_PARKED), "parked_at does not fit its outcome")


def _check_sending(sending: Sending, answers: list[Answer], ledger: Ledger, max_crashes: int) -> None:
    row = ledger.requests.get(sending.request_id or "")
    blamed = row is not None and row.crashes >= max_crashes
    allowed = sending.outcomes | ({"crashed_worker"} if blamed else set())
    for answer in answers:
        if answer.outcome not in allowed:
            raise AuditError(
                sending.request_id, f"was answered {answer.outcome}: {answer.body!r} to {sending}"
            )
        if sending.request_id is not None and answer.document["request_id"] != sending.request_id:
            raise AuditError(sending.request_id, f"got another's answer: {answer.body!r}")
    claimed = [answer for answer in answers if not answer.refusal]
    if claimed and row is None:
        raise AuditError(sending.request_id, "was answered and is unknown to the ledger")
    foreseen = sending.attempts
    if row and claimed and row.status == "completed" and foreseen not in {None, row.attempt}:
        raise AuditError(sending.request_id, f"took {row.attempt} attempts, not {foreseen}: {row}")


def _check_answers(request_id: str, book: Book, row: Row | None) -> None:
    sendings = book.of(request_id)
    answers = [answer for each in sendings for answer in book.answers[each.correlation_id]]
    claimed = [answer for answer in answers if not answer.refusal]
    bodies = {answer.body for answer in claimed}
    if len(bodies) > 1:
        raise AuditError(request_id, f"was answered in {len(bodies)} ways: {bodies}")
    if row is not None and bodies and bodies != {bytes(row.response or b"")}:
        raise AuditError(request_id, f"answer and ledger differ: {bodies} {row}")
    contents = {each.content for each in sendings if not book_refused(book, each)}
    if len(contents) > 1:
        raise AuditError(request_id, f"two contents were taken up: {contents}")


def book_refused(book: Book, sending: Sending) -> bool:
    """Whether every answer to this sending was a refusal (or none came)."""
    return all(answer.refusal for answer in book.answers[sending.correlation_id])


@dataclass(frozen=True)
class Letter:
    """A copy found on the parking lot."""

    headers: Mapping[str, Any]
    correlation_id: str | None
    body: bytes


def check_parked(book: Book, ledger: Ledger, letters: list[Letter], doubles: int) -> int:
    """Every failure for people and every refusal is there, and nothing else. How many are there twice, which
    may be ``doubles``."""
    refused = {
        correlation_id
        for correlation_id, answers in book.answers.items()
        if any(answer.refusal for answer in answers)
    }
    failed = {row.request_id for row in ledger.requests.values() if row.parked}
    there: Counter[str] = Counter()
    for letter in letters:
        of_claimed = letter.headers.get("x-request-id") in failed and letter.correlation_id not in refused
        key = letter.headers["x-request-id"] if of_claimed else letter.correlation_id
        if key not in failed and key not in refused:
            raise AuditError(letter.headers.get("x-request-id"), f"is parked without reason: {letter}")
        there[key] += 1
    if missing := (failed | refused) - there.keys():
        raise AuditError(missing.pop(), "is not on the parking lot")
    if (more := there.total() - len(there)) > doubles:
        raise AuditError(None, f"{more} doubles on the parking lot: {there.most_common(5)}")
    return more
