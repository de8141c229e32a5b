"""``status`` and ``requests``: what the ledger knows."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from uuid import UUID

import typer

from contracts import RequestStatus
from worker import durations, settings
from worker.cli import console, views
from worker.ledger import open_reader

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from worker.ledger.base import Entry, LedgerReader


def status(request_id: str, *, ledger_url: str | None, json: bool) -> int:
    """Print one request's timeline; 1 when the ledger never heard of it."""
    entry = asyncio.run(_get(_uuid(request_id), ledger_url))
    if entry is None:
        if json:
            console.document({"request_id": request_id, "status": "unknown"})
        else:
            console.results().print("unknown")
        console.notices().print(
            f"The ledger has no request {request_id}: it never arrived, was pruned, or another ledger has it."
        )
        return 1
    if json:
        console.document(views.document(entry))
    else:
        console.results().print(views.timeline(entry))
    return 0


def requests(name: str | None, since: str | None, limit: int, *, ledger_url: str | None, json: bool) -> int:
    """Print the newest requests; none is no failure."""
    entries = asyncio.run(_find(_status(name), _seconds(since), limit, ledger_url))
    if json:
        for entry in entries:
            console.document(views.document(entry))
    elif entries:
        console.results().print(views.table(entries, datetime.now(UTC)))
    if len(entries) == limit:
        console.notices().print(f"The newest {limit}; there may be more: --limit.")
    elif not entries:
        console.notices().print("No such requests.")
    return 0


async def _get(request_id: UUID, ledger_url: str | None) -> Entry | None:
    async with _reader(ledger_url) as reader:
        return await reader.get(request_id)


async def _find(
    name: RequestStatus | None, since: float | None, limit: int, ledger_url: str | None
) -> list[Entry]:
    async with _reader(ledger_url) as reader:
        return await reader.find(status=name, since=since, limit=limit)


@asynccontextmanager
async def _reader(ledger_url: str | None) -> AsyncIterator[LedgerReader]:
    loaded = settings.load_only(ledger_url=ledger_url)
    reader = open_reader(loaded.ledger_url.get_secret_value())
    await reader.open()
    try:
        yield reader
    finally:
        await reader.close()


def _uuid(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise typer.BadParameter(
            "not a UUID; `session-worker requests` lists them.", param_hint="REQUEST_ID"
        ) from None


def _status(name: str | None) -> RequestStatus | None:
    try:
        return RequestStatus(name.lower()) if name else None
    except ValueError:
        raise typer.BadParameter(f"it is one of {', '.join(RequestStatus)}.", param_hint="--status") from None


def _seconds(since: str | None) -> float | None:
    try:
        return durations.seconds(since) if since else None
    except ValueError as error:
        raise typer.BadParameter(f"{error}.", param_hint="--since") from None
