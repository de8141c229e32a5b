"""Old finished requests, counted or deleted for an operator."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from session_worker.ledger import open_pruner
from session_worker.ledger.prune import in_batches

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from session_worker.settings import Settings


class Pruning:
    """``requests`` counts what was or would be deleted. The caller opens and closes ``pruner``."""

    def __init__(self, settings: Settings) -> None:
        self.pruner = open_pruner(settings.ledger_url.get_secret_value())
        self.requests = 0

    async def delete(self) -> AsyncIterator[int]:
        """Delete in small batches; yield the size of each."""
        async for deleted in in_batches(self.pruner):
            self.requests += deleted
            yield deleted

    def document(self, *, dry_run: bool) -> dict[str, Any]:
        """The result as a JSON document, whose field names are part of the interface."""
        before = self.pruner.finished_before.isoformat()
        return {"finished_before": before, "requests": self.requests, "dry_run": dry_run}
