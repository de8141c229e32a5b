"""How entries look: one's timeline, and a table of many."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from worker import durations
from worker.cli.console import printable

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import RenderableType

    from worker.ledger.base import Entry

COLOURS = {"completed": "green", "failed": "red", "processing": "cyan", "pending": "yellow"}


def document(entry: Entry) -> dict[str, Any]:
    """An entry as ``--json`` prints it; the names are part of the interface."""
    return {
        "request_id": str(entry.request_id),
        "status": str(entry.status),
        "attempt": entry.attempt,
        "session_id": entry.session_id,
        "user_id": entry.user_id,
        "casefile_id": entry.casefile_id,
        "error_code": entry.error_code,
        "error": entry.error,
        "reply": entry.reply,
        "received_at": _iso(entry.received_at),
        "finished_at": _iso(entry.finished_at),
        "next_attempt_at": _iso(entry.next_attempt_at),
        "history": [dict(move) for move in entry.history],
    }


def timeline(entry: Entry) -> RenderableType:
    """What is known of a request, and every move it made."""
    return Group(_facts(entry), Text(), _moves(entry))


def table(entries: Iterable[Entry], now: datetime) -> Table:
    """One line for each entry; the user, whose name may be long, gets the room that is left."""
    shown = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in ("ago", "request", "outcome"):
        shown.add_column(column, no_wrap=True)
    shown.add_column("user", overflow="fold")
    for entry in entries:
        shown.add_row(
            durations.ago(entry.received_at, now),
            str(entry.request_id),
            _outcome(entry),
            Text(printable(entry.user_id)),
        )
    return shown


def _outcome(entry: Entry) -> Text:
    """The session; or why there is none, or none yet."""
    if entry.status == "completed":
        return Text(entry.session_id, style=COLOURS["completed"])
    if entry.status == "failed":
        return Text(f"failed: {entry.error_code}", style=COLOURS["failed"])
    return status(entry.status)


def status(name: str) -> Text:
    return Text(str(name), style=COLOURS.get(str(name), ""))


def _facts(entry: Entry) -> Table:
    facts = Table(box=None, show_header=False, pad_edge=False)
    facts.add_column(style="dim", no_wrap=True)
    facts.add_column(overflow="fold")
    facts.add_row("request", str(entry.request_id))
    facts.add_row("status", status(entry.status))
    facts.add_row("session", _session(entry))
    facts.add_row("user", Text(printable(entry.user_id)))
    if entry.casefile_id:
        facts.add_row("casefile", entry.casefile_id)
    if entry.error_code:
        facts.add_row("error", Text(printable(f"{entry.error_code}: {entry.error or ''}")))
    if entry.next_attempt_at:
        facts.add_row("next try", durations.clock(entry.next_attempt_at))
    facts.add_row("reply", entry.reply or "none recorded")
    facts.add_row("received", durations.clock(entry.received_at))
    if len(_workers(entry)) == 1:
        facts.add_row("worker", *_workers(entry))
    return facts


def _session(entry: Entry) -> Text:
    if entry.status == "completed":
        return Text(entry.session_id)
    return Text(f"{entry.session_id} (reserved, not created)", style="dim")


def _moves(entry: Entry) -> Table:
    several = len(_workers(entry)) > 1
    moves = _table("time", "after", "status", "try", *(["worker"] if several else []))
    moves.add_column("detail", overflow="fold")
    for move in entry.history:
        moves.add_row(
            durations.clock(move["at"], milliseconds=True),
            f"+{durations.text(_after(entry, move['at']))}",
            status(move["status"]),
            str(move["attempt"]),
            *([Text(move["worker_id"] or "")] if several else []),
            Text(printable(move["detail"] or "")),
        )
    return moves


def _table(*columns: str) -> Table:
    """A table whose columns are as wide as their longest cell; columns added later share the rest."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, no_wrap=True, justify="right" if column in ("try", "after") else "left")
    return table


def _workers(entry: Entry) -> list[str]:
    return list(dict.fromkeys(move["worker_id"] for move in entry.history if move["worker_id"]))


def _after(entry: Entry, at: str) -> float:
    return max(0.0, (datetime.fromisoformat(at) - entry.received_at).total_seconds())


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()
