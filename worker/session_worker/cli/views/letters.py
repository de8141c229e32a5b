"""How dead letters look: one with all its headers, a table of many, a table of groups."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pydantic_core
from rich.console import Group as Lines
from rich.text import Text

from session_contracts.errors import ERRORS, ErrorCode
from session_worker.cli.views import entries
from session_worker.cli.views.listing import Listing, facts
from session_worker.operators.dead_letters import Fate
from session_worker.settings import durations
from session_worker.telemetry.printable import printable

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from rich.console import RenderableType

    from session_worker.operators.dead_letters import DeadLetter, Group

SHOWN = 4096
"""Characters of a body, and of a stack trace, that a person is shown; ``--json`` has them whole."""

OUTLOOKS = {
    Fate.REOPENED: "re-opens the request and sends it again",
    Fate.RESENT: "sends it again; it was refused, so there is nothing to re-open",
    Fate.CUT: "cannot be: only the beginning of the body was kept",
    Fate.ILLEGIBLE: "cannot be: its properties cannot be decoded",
}


def table(rows: Iterable[dict[str, Any]], now: datetime) -> Listing:
    """Make a table of the documents of letters."""
    shown = Listing("ago", "request", "operation", "code", "user", "why")
    for row in rows:
        shown.add(
            _ago(row["failed_at"], now),
            row["request_id"] or f"none; letter {row['letter_id']}",
            row["operation"],
            Text(printable(row["error_code"] or "none"), style="red"),
            row["user_id"] or "",
            _brief(row["exception_type"], row["message"]),
        )
    return shown


def group_table(groups: Iterable[Group], now: datetime) -> Listing:
    columns = ("operation", "code", "exception", "first", "last", "for example", "newest message")
    shown = Listing("dead letters", *columns, right=("dead letters",))
    for group in groups:
        shown.add(
            f"{group.count:,}",
            group.operation,
            Text(printable(group.code or "none"), style="red"),
            group.exception_type or "",
            f"{_ago(group.first, now)} ago",
            f"{_ago(group.last, now)} ago",
            str(group.example or ""),
            _brief(None, group.message),
        )
    return shown


def sheet(letter: DeadLetter) -> RenderableType:
    """Show everything that the letter says."""
    parts: list[RenderableType] = [facts((name, value) for name, value in _facts(letter) if value)]
    if letter.stacktrace:
        parts += [Text(), *_block(letter.stacktrace)]
    return Lines(*parts, Text(), *_block(_body(letter)))


def _facts(letter: DeadLetter) -> Iterable[tuple[str, str | None]]:
    yield "request", str(letter.request_id or "its id is not known")
    yield "dead letter", str(letter.letter_id or "")
    yield "operation", letter.operation.name
    yield "error", _error(letter.code)
    yield "exception", letter.exception_type
    yield "message", letter.message
    yield "attempts", str(letter.attempts or "none, it was refused")
    yield "failed", durations.clock(letter.failed_at) if letter.failed_at else None
    yield "first seen", durations.clock(letter.first_seen_at) if letter.first_seen_at else None
    yield "worker", letter.worker_id
    yield "from queue", letter.queue
    yield "user", letter.user_id
    yield "answer to", letter.delivery.reply_to or "the default reply queue"
    yield "correlation", letter.delivery.correlation_id
    yield "redriven", f"{letter.redrives} times before" if letter.redrives else None
    yield "a redrive", OUTLOOKS[letter.outlook]
    yield "body", f"{letter.size:,} bytes" + (f", {len(letter.delivery.body):,} kept" if letter.cut else "")


def _error(code: str | None) -> str:
    if code is None:
        return "none: the broker put it there, having lost it too often"
    return f"{code}: {ERRORS[ErrorCode(code)].meaning}" if code in set(ErrorCode) else code


def _body(letter: DeadLetter) -> str:
    """The body, indented if it is JSON."""
    try:
        return json.dumps(pydantic_core.from_json(letter.delivery.document), indent=2, ensure_ascii=False)
    except ValueError:
        return letter.delivery.body.decode("utf-8", "backslashreplace")


def _block(text: str) -> Iterable[Text]:
    for line in text[:SHOWN].splitlines():
        yield Text(printable(line))
    if len(text) > SHOWN:
        yield Text(f"… {len(text) - SHOWN:,} more characters: --json", style="dim")


def _brief(exception_type: str | None, message: str) -> str:
    text = " ".join(message.split())
    if exception_type and exception_type not in text.partition(":")[0]:
        text = f"{exception_type}: {text}"
    return entries.brief(text)


def _ago(moment: datetime | str | None, now: datetime) -> str:
    return durations.ago(moment, now) if moment else "?"
