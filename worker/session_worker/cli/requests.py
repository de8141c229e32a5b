"""``status`` and ``requests``: what the ledger knows."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import typer

from session_contracts import RequestStatus
from session_worker.cli import command_settings, options, streams, terminal
from session_worker.cli.views.entries import table, timeline
from session_worker.loop import PlainLoop
from session_worker.operators.entries import document, reader

if TYPE_CHECKING:
    from session_worker.ledger.reader import Entry


def status(request_id: str, *, ledger_url: str | None, json: bool) -> int:
    """Print one request's timeline; 1 when the ledger never heard of it."""
    with asyncio.Runner(loop_factory=PlainLoop) as runner:
        entry = runner.run(_get(request_id, ledger_url))
    if entry is None:
        if json:
            streams.write_document({"request_id": request_id, "status": "unknown"})
        else:
            terminal.results().print("unknown")
        terminal.notices().print(
            f"The ledger has no request {request_id}: it never arrived, it only read (a read leaves no entry)"
            ", it was pruned, or another ledger has it.",
            soft_wrap=True,
        )
        return 1
    if json:
        streams.write_document(document(entry))
    else:
        terminal.results().print(timeline(entry))
    return 0


def requests(
    name: str | None,
    since: str | None,
    limit: int,
    *,
    user: str | None,
    code: str | None,
    operation: str | None,
    undeliverable: bool,
    ledger_url: str | None,
    json: bool,
) -> int:
    """Print the newest requests; none is no failure."""
    wanted: dict[str, Any] = {"status": _status(name), "user_id": user, "operation": operation}
    wanted |= {"error_code": options.error_code(code), "since": options.duration(since, "--since")}
    with asyncio.Runner(loop_factory=PlainLoop) as runner:
        entries = runner.run(_find(ledger_url, limit=limit, undeliverable=undeliverable, **wanted))
    if json:
        for entry in entries:
            streams.write_document(document(entry))
    elif entries:
        terminal.results().print(table(entries, datetime.now(UTC)))
    if len(entries) == limit:
        terminal.notices().print(f"The newest {limit}; there may be more: --limit.")
    elif not entries:
        terminal.notices().print("No such requests.")
    return 0


async def _get(text: str, ledger_url: str | None) -> Entry | None:
    """The entry of a request, or of the request that created a session."""
    of_session = text.lower().startswith(("ts_", "cs_"))
    hint = "neither a request's UUID nor a session's id (ts_…); `session-worker requests` lists them."
    request_id = None if of_session else options.uuid(text, "REQUEST_ID", hint)
    async with reader(command_settings.load_only(ledger_url=ledger_url)) as ledger:
        return await (ledger.get(request_id) if request_id else ledger.get_by_session(text.lower()))


async def _find(ledger_url: str | None, **wanted: Any) -> list[Entry]:
    async with reader(command_settings.load_only(ledger_url=ledger_url)) as ledger:
        return await ledger.find(**wanted)


def _status(name: str | None) -> RequestStatus | None:
    try:
        return RequestStatus(name.lower()) if name else None
    except ValueError:
        raise typer.BadParameter(f"it is one of {', '.join(RequestStatus)}.", param_hint="--status") from None
