"""Watch broker and ledger. The questions may be asked every second.

Each watcher opens a connection when it first needs one, and again after it was lost. It writes, declares and
consumes nothing, and a look costs the same however large the ledger is.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from session_client.net.close_reasons import Kind
from session_client.net.errors import LinkLostError
from session_worker.broker.connection import Connection
from session_worker.ledger import LedgerError, open_reader
from session_worker.operators.operations import known, topology
from session_worker.operators.traffic import SAMPLE, failed_last, traffic

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from session_worker.ledger.reader import Entry, LedgerReader
    from session_worker.operators.traffic import Traffic
    from session_worker.settings import Settings

LOOK_SECONDS = 10.0
HOUR = 3600.0


@dataclass(frozen=True, slots=True)
class Unreachable:
    """There is no answer; ``reason`` is a sentence for people."""

    reason: str


@dataclass(frozen=True, slots=True)
class Depth:
    """The messages that wait in a queue, without those that a worker holds, and its consumers.

    Both are None where ``trouble`` says why nobody knows. ``is_work``: workers take requests from it.
    """

    queue: str
    messages: int | None
    consumers: int | None
    trouble: str = ""
    is_work: bool = False


@dataclass(frozen=True, slots=True)
class Look:
    """What was found at the ledger."""

    traffic: Traffic
    failures: Sequence[Entry]


@dataclass(slots=True)
class Snapshot:
    """What was found last at ledger and broker; None: nothing yet."""

    ledger: Look | Unreachable | None = None
    queues: list[Depth] | Unreachable | None = None


@asynccontextmanager
async def watchers(settings: Settings) -> AsyncIterator[tuple[LedgerWatch, BrokerWatch]]:
    """Make the two watchers, and close them afterwards. Raises AppError: the app cannot be served."""
    ledger, broker = LedgerWatch(settings), BrokerWatch(settings)
    try:
        yield ledger, broker
    finally:
        await asyncio.gather(ledger.close(), broker.close())


async def snapshot(settings: Settings) -> Snapshot:
    """Look at ledger and broker once, both at the same time. Raises AppError."""
    async with watchers(settings) as (ledger, broker):
        return Snapshot(*await asyncio.gather(ledger.look(), broker.look()))


class LedgerWatch:
    """Looks at the ledger again and again."""

    def __init__(self, settings: Settings) -> None:
        self._url = settings.ledger_url.get_secret_value()
        self._reader: LedgerReader | None = None

    async def look(self) -> Look | Unreachable:
        try:
            async with asyncio.timeout(LOOK_SECONDS):
                if self._reader is None:
                    reader = open_reader(self._url)
                    await reader.open()
                    self._reader = reader
                recent = await self._reader.recent(since=HOUR, limit=SAMPLE)
                failures = [await self._reader.get(request_id) for request_id in failed_last(recent)]
                return Look(traffic(recent), [entry for entry in failures if entry is not None])
        except LedgerError as error:
            reason = str(error)
        except TimeoutError:
            reason = f"the ledger did not answer within {LOOK_SECONDS:.0f} s"
        await self.close()
        return Unreachable(reason)

    async def close(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            await reader.close()


class BrokerWatch:
    """Looks at the queues of all operations again and again, the work queues first."""

    def __init__(self, settings: Settings) -> None:
        needed = topology(settings.prefix, known(settings))
        self._work = [operation.work for operation in needed.operations]
        others = (queue.name for queue in needed.queues if queue.name not in self._work)
        self._queues = (*self._work, *others)
        self._urls = settings.amqp_urls
        self._connection: Connection | None = None

    async def look(self) -> list[Depth] | Unreachable:
        try:
            if self._connection is None:  # it has a time limit for each URL
                self._connection = await Connection.open(self._urls, "top")
            async with asyncio.timeout(LOOK_SECONDS):
                looking = (self._depth(self._connection, queue) for queue in self._queues)
                return await asyncio.gather(*looking)
        except LinkLostError as error:
            reason = str(error)
        except TimeoutError:
            reason = f"the broker did not answer within {LOOK_SECONDS:.0f} s"
        await self.close()
        return Unreachable(reason)

    async def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    async def _depth(self, connection: Connection, queue: str) -> Depth:
        try:
            async with connection.channel() as channel:
                found = await connection.unless_lost(channel.declare_queue(queue, passive=True))
        except LinkLostError as error:
            trouble = _TROUBLE.get(error.kind)
            if trouble is None:
                raise
            return Depth(queue, None, None, trouble, is_work=queue in self._work)
        counts = found.declaration_result
        return Depth(queue, counts.message_count, counts.consumer_count, is_work=queue in self._work)


_TROUBLE: Mapping[Kind | None, str] = {
    Kind.MISSING: "missing",
    Kind.PERMISSION: "this user may not see it",
}


def document(snapshot: Snapshot) -> dict[str, Any]:
    """The snapshot as a JSON document, whose field names are part of the interface."""
    ledger, queues = snapshot.ledger, snapshot.queues
    return {
        "at": datetime.now(UTC).isoformat(),
        "ledger": _ledger_document(ledger) if isinstance(ledger, Look) else None,
        "ledger_trouble": ledger.reason if isinstance(ledger, Unreachable) else None,
        "queues": {
            each.queue: {
                "messages": each.messages,
                "consumers": each.consumers,
                "trouble": each.trouble or None,
            }
            for each in queues
        }
        if isinstance(queues, list)
        else None,
        "broker_trouble": queues.reason if isinstance(queues, Unreachable) else None,
    }


def _ledger_document(look: Look) -> dict[str, Any]:
    traffic = look.traffic
    return {
        **traffic.lately.document(),
        "last_minute": traffic.minute.document(),
        "processing": traffic.running,
        "pending": traffic.waiting,
        "failed_last_hour": traffic.failed,
        "workers": list(traffic.workers),
        "failures": [
            {
                "request_id": str(entry.request_id),
                "at": (entry.finished_at or entry.updated_at).isoformat(),
                "error_code": entry.error_code,
                "reason": entry.reason,
            }
            for entry in look.failures
        ],
    }
