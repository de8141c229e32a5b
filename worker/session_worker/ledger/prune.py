"""Deleting what finished long ago, in small batches beside the workers that use the ledger.

Only rows of ``requests`` are deleted. The rows of ``sessions`` are what the service was asked for. They also
keep a request id that comes back after its entry is gone from getting a second session.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Protocol

from session_worker.ledger.protocol import LedgerError
from session_worker.telemetry.events import LedgerNotPruned, LedgerPruned, unheard

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from datetime import datetime

    from session_worker.telemetry.events import Emit

BATCH = 500
"""Entries in one transaction."""
REST = 9.0
"""After a batch, rest for so many times as long as it took: most of the ledger's time is the workers'."""
SHORTEST_REST = 0.01
ROUND_SECONDS = 3600.0
"""How often a worker with a retention looks for old entries, also after a failure."""
STATEMENT_TIMEOUT = 60.0
"""Seconds for one statement in the background. A pruner whose answer is lost in the network would keep the
others from pruning, unseen."""


class PrunedElsewhereError(LedgerError):
    """Somebody else is pruning this ledger at the moment."""


class Pruner(Protocol):
    """Counts and deletes old entries: those that finished before ``finished_before``."""

    finished_before: datetime

    async def open(self, older_than: float, *, statement_timeout: float | None = None) -> None:
        """Connect. Old is what finished at least ``older_than`` seconds ago by the ledger's clock.

        Over a network a statement may take ``statement_timeout`` seconds; None: as long as it needs.

        Raises:
            LedgerError: as when a ledger is opened.
            PrunedElsewhereError: another one is at work (PostgreSQL).
        """

    async def close(self) -> None: ...

    async def count(self) -> int:
        """How many old entries there are. Raises LedgerError."""

    async def delete(self, limit: int) -> int:
        """Delete the oldest ``limit`` of them in one transaction; fewer: that was all. Raises LedgerError."""


async def in_batches(pruner: Pruner) -> AsyncIterator[int]:
    """Delete all old entries, and yield the size of each batch. It may be left at any moment."""
    while True:
        began = time.monotonic()
        deleted = await pruner.delete(BATCH)
        if deleted:
            yield deleted
        if deleted < BATCH:
            return
        await asyncio.sleep(max(SHORTEST_REST, REST * (time.monotonic() - began)))


@asynccontextmanager
async def in_background(
    make: Callable[[], Pruner], retention: float | None, emit: Emit = unheard
) -> AsyncIterator[None]:
    """Within the block, forget what is older than ``retention`` seconds (None: nothing)."""
    if retention is None:
        yield
        return
    pruning = asyncio.create_task(_keep_pruning(make, retention, emit), name="ledger pruner")
    try:
        yield
    finally:
        pruning.cancel()
        await asyncio.wait({pruning})


async def _keep_pruning(make: Callable[[], Pruner], retention: float, emit: Emit) -> None:
    while True:
        try:
            deleted = await _prune(make(), retention)
        except PrunedElsewhereError:
            pass  # one of the workers is enough
        except LedgerError as error:
            emit(LedgerNotPruned(str(error), None))
        except Exception as error:  # noqa: BLE001
            emit(LedgerNotPruned(type(error).__name__, error))
        else:
            emit(LedgerPruned(deleted))
        await asyncio.sleep(ROUND_SECONDS)


async def _prune(pruner: Pruner, older_than: float) -> int:
    try:
        await pruner.open(older_than, statement_timeout=STATEMENT_TIMEOUT)
        return sum([deleted async for deleted in in_batches(pruner)])
    finally:
        await pruner.close()
