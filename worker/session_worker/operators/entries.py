"""The ledger's entries, as operators ask for them."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from session_worker.ledger import open_reader

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from session_worker.ledger.reader import Entry, LedgerReader
    from session_worker.settings import Settings


@asynccontextmanager
async def reader(settings: Settings) -> AsyncIterator[LedgerReader]:
    """Open the ledger for reading; it is never made, upgraded or written to.

    Raises:
        LedgerError: it cannot be used.
    """
    opened = open_reader(settings.ledger_url.get_secret_value())
    await opened.open()
    try:
        yield opened
    finally:
        await opened.close()


def document(entry: Entry) -> dict[str, Any]:
    """An entry and its history as a JSON document, whose field names are part of the interface."""
    return {
        "request_id": str(entry.request_id),
        "operation": entry.operation,
        "status": str(entry.status),
        "attempt": entry.attempt,
        "session_id": entry.session_id,
        "user_id": entry.user_id,
        "casefile_id": entry.casefile_id,
        "title": entry.title,
        "error_code": entry.error_code,
        "error": entry.error,
        "reply": entry.reply,
        "received_at": entry.received_at.isoformat(),
        "finished_at": entry.finished_at and entry.finished_at.isoformat(),
        "next_attempt_at": entry.next_attempt_at and entry.next_attempt_at.isoformat(),
        "history": [dict(move) for move in entry.history],
    }
