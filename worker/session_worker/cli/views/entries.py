"""How entries look: one's timeline, and a table of many."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from rich.console import Group
from rich.text import Text

from session_contracts import CREATE_SESSION
from session_worker.cli.views.listing import Listing, facts
from session_worker.settings import durations

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from rich.console import RenderableType

    from session_worker.ledger.reader import Entry

LONGEST = 200
"""Characters of a reason in a table; ``status`` shows all of it."""
COLOURS = {"completed": "green", "failed": "red", "processing": "cyan", "pending": "yellow"}


def timeline(entry: Entry) -> RenderableType:
    """What is known of a request, and every move it made."""
    return Group(facts(_facts(entry)), Text(), _moves(entry))


def table(entries: Iterable[Entry], now: datetime) -> Listing:
    shown = Listing("ago", "request", "operation", "outcome", "user", "reason")
    for entry in entries:
        shown.add(
            durations.ago(entry.received_at, now),
            str(entry.request_id),
            entry.operation,
            _outcome(entry),
            entry.user_id,
            brief(entry.reason),
        )
    return shown


def brief(text: str) -> str:
    """The beginning of other people's text, on one line."""
    text = " ".join(text.split())
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def _outcome(entry: Entry) -> Text:
    """The session that it created or named, or why there is no answer (yet)."""
    if entry.status == "completed":
        return Text(entry.session_id or "completed", style=COLOURS["completed"])
    if entry.status == "failed":
        return Text(f"failed: {entry.error_code}", style=COLOURS["failed"])
    return status(entry.status)


def status(name: str) -> Text:
    return Text(str(name), style=COLOURS.get(str(name), ""))


def _facts(entry: Entry) -> Iterator[tuple[str, str | Text]]:
    yield "request", str(entry.request_id)
    yield "operation", entry.operation
    yield "status", status(entry.status)
    if entry.session_id:
        yield "session", _session(entry.session_id, entry)
    yield "user", entry.user_id
    if entry.casefile_id:
        yield "casefile", entry.casefile_id
    if entry.title:
        yield "title", entry.title
    if entry.error_code:
        yield "error", f"{entry.error_code}: {entry.error or ''}"
    if entry.next_attempt_at:
        yield "next try", durations.clock(entry.next_attempt_at)
    if entry.reply or entry.finished_at:
        yield "reply", entry.reply or "not confirmed yet"
    yield "received", durations.clock(entry.received_at)
    if len(workers := _workers(entry)) == 1:
        yield "worker", workers[0]


def _session(session_id: str, entry: Entry) -> Text:
    if entry.status == "completed" or entry.operation != CREATE_SESSION.name:
        return Text(session_id)
    return Text(f"{session_id} (reserved, not created)", style="dim")


def _moves(entry: Entry) -> Listing:
    several = len(_workers(entry)) > 1
    worker = ["worker"] if several else []
    moves = Listing("time (UTC)", "after", "status", "try", *worker, "detail", right=("after", "try"))
    for move in entry.history:
        moves.add(
            durations.time_of_day(move["at"], "milliseconds"),
            f"+{durations.text(_after(entry, move['at']))}",
            status(move["status"]),
            str(move["attempt"]),
            *([move["worker_id"] or ""] if several else []),
            move["detail"] or "",
        )
    return moves


def _workers(entry: Entry) -> list[str]:
    return list(dict.fromkeys(move["worker_id"] for move in entry.history if move["worker_id"]))


def _after(entry: Entry, at: str) -> float:
    return max(0.0, (datetime.fromisoformat(at) - entry.received_at).total_seconds())
