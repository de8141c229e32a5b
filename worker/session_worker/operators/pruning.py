"""Old finished requests, counted or deleted for an operator."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from session_worker.ledger import open_pruner
from session_worker.ledger.prune import in_batches

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from session_worker.settings import Settings


class Pruning:
    """``requests`` counts what was deleted so far, or what would be."""

    def __init__(self, settings: Settings) -> None:
        self._pruner = open_pruner(settings.ledger_url.get_secret_value())
        self.requests = 0

    @property
    def finished_before(self) -> str:
        return self._pruner.finished_before.isoformat()

    @asynccontextmanager
    async def opened(self, older_than: float) -> AsyncIterator[None]:
        """Open the ledger for what finished at least ``older_than`` seconds ago. Raises LedgerError."""
        try:
            await self._pruner.open(older_than)
            yield
        finally:
            await self._pruner.close()

    async def count(self) -> int:
        return await self._pruner.count()

    async def delete(self) -> AsyncIterator[int]:
        """Delete in small batches; yield the size of each."""
        async for deleted in in_batches(self._pruner):
            self.requests += deleted
            yield deleted

    def document(self, *, dry_run: bool) -> dict[str, Any]:
        """The result as a JSON document, whose field names are part of the interface."""
        return {"finished_before": self.finished_before, "requests": self.requests, "dry_run": dry_run}
