"""The parking lots, read page by page."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import TYPE_CHECKING, Any

from session_client.net.aiormq_errors import broker_errors
from session_client.net.close_reasons import Kind
from session_client.net.errors import LinkLostError
from session_contracts import Names
from session_worker.broker.connection import SETUP_SECONDS, Connection
from session_worker.broker.consumer import Consumer
from session_worker.broker.topology import TopologyError
from session_worker.operators.dead_letters.letter import DeadLetter

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence
    from typing import Self

    from session_contracts import Operation
    from session_worker.messages.delivery import Delivery
    from session_worker.operators.dead_letters.letter import Filter
    from session_worker.settings import Settings

PAGE = 100
"""Letters read at a time. It bounds the bodies in memory, here and at the broker."""
LARGEST = 16_777_216
"""Bytes of the largest body that any worker may be set to read."""
QUIET_SECONDS = 0.2
"""How long the broker may be silent before it is asked whether there are any more."""
STUCK_SECONDS = 30.0
GIVE_BACK_SECONDS = 1.0


class ParkingLot:
    """The letters of some operations that were there, and held by nobody else, when it was opened:
    ``counts`` of them, by operation.

    Closing gives back the letters that were not dropped. If this process dies, the broker does.
    """

    def __init__(
        self,
        connection: Connection,
        consumer: Consumer,
        names: Names,
        counts: dict[Operation[Any, Any], int],
    ) -> None:
        self._connection = connection
        self._consumer = consumer
        self._names = names
        self._held = dict.fromkeys(counts, 0)
        self.counts = counts
        self.on_read: Callable[[int], None] = lambda _: None
        """Hears how many letters each page had."""

    @classmethod
    @asynccontextmanager
    async def open(cls, settings: Settings, operations: Sequence[Operation[Any, Any]]) -> AsyncIterator[Self]:
        """Operations that no worker has served yet have no parking lot, and so no letters.

        Raises:
            LinkLostError: the broker cannot be reached, or (when it is read) does not let this user read it.
            TopologyError: there is no parking lot at all.
        """
        names = Names(settings.prefix)
        connection = await Connection.open(settings.amqp_urls, "dead letters")
        try:
            counts = await _counts(connection, names, operations)
            consumer = await connection.frame_channel(Consumer, vital=True)
            lot = cls(connection, consumer, names, counts)
            yield lot
            await lot._give_back()
        finally:
            await connection.close()

    @property
    def count(self) -> int:
        return sum(self.counts.values())

    async def pages(self) -> AsyncIterator[list[DeadLetter]]:
        """Yield each letter once, operation by operation, the oldest first.

        Letters parked meanwhile are left out, so that a redrive never meets what it caused itself. Each page
        has its own consumer, so that any number of letters of earlier pages may stay unacknowledged.
        """
        for operation, left in self.counts.items():
            while left > 0:
                page = await self._page(operation, min(PAGE, left))
                if not page:
                    break
                left -= len(page)
                yield [DeadLetter.of(operation, delivery) for delivery in page]

    async def matching(self, wanted: Filter, limit: int | None = None) -> AsyncIterator[list[DeadLetter]]:
        """Yield ``limit`` letters wanted, page by page."""
        left = limit
        async for page in self.pages():
            found = [letter for letter in page if wanted.fits(letter)][:left]
            if found:
                yield found
            self.on_read(len(page))
            if left is not None:
                left -= len(found)
                if left == 0:
                    return

    async def purge(self, wanted: Filter, limit: int | None = None) -> int:
        """Drop ``limit`` letters wanted, for good; return how many there were."""
        count = 0
        async for page in self.matching(wanted, limit):
            for letter in page:
                self.drop(letter)
            count += len(page)
        return count

    def drop(self, letter: DeadLetter) -> None:
        """Take the letter away for good."""
        letter.delivery.receipt.ack()
        self._held[letter.operation] -= 1

    async def _page(self, operation: Operation[Any, Any], size: int) -> list[Delivery]:
        queue = self._names.of(operation.key).dead
        page: list[Delivery] = []
        full = asyncio.Event()

        def deliver(delivery: Delivery) -> None:
            page.append(delivery)
            self._held[operation] += 1
            if len(page) == size:
                full.set()

        preparing = self._consumer.prepare(queue, deliver, prefetch=size, max_body_bytes=LARGEST)
        await self._connection.unless_lost(preparing)
        with _queue_errors(queue):
            await self._connection.unless_lost(self._consumer.resume())
        silence = 0.0
        while not full.is_set():
            arrived = len(page)
            with suppress(TimeoutError):
                async with asyncio.timeout(QUIET_SECONDS):
                    await self._connection.unless_lost(full.wait())
            silence = 0.0 if len(page) > arrived else silence + QUIET_SECONDS
            # Somebody else may hold what was counted, or have dropped it.
            if silence and await ready(self._connection, queue) == 0 and len(page) == arrived:
                break
            if silence > STUCK_SECONDS:
                raise LinkLostError(f"queue {queue} holds letters and hands none out")
        await self._connection.unless_lost(self._consumer.pause())
        return page

    async def _give_back(self) -> None:
        """Put the letters back and wait until they are there, so that the next command finds them."""
        self._consumer.flush()
        with broker_errors():
            await self._consumer.basic_nack(0, multiple=True, requeue=True)
        with suppress(TimeoutError):
            async with asyncio.timeout(GIVE_BACK_SECONDS):
                for operation, held in self._held.items():
                    queue = self._names.of(operation.key).dead
                    while await ready(self._connection, queue) < held:  # noqa: ASYNC110 -- nobody tells
                        await asyncio.sleep(0.01)


async def _counts(
    connection: Connection, names: Names, operations: Sequence[Operation[Any, Any]]
) -> dict[Operation[Any, Any], int]:
    counts: dict[Operation[Any, Any], int] = {}
    missing: TopologyError | None = None
    for operation in operations:
        try:
            counts[operation] = await ready(connection, names.of(operation.key).dead)
        except TopologyError as error:
            missing = missing or error
    if missing and not counts:
        raise missing
    return counts


async def ready(connection: Connection, queue: str) -> int:
    """Count the messages that wait in a queue that must exist. Raises TopologyError, LinkLostError."""
    with _queue_errors(queue):
        async with connection.channel() as channel:
            declared = await connection.unless_lost(
                channel.declare_queue(queue, passive=True, timeout=SETUP_SECONDS)
            )
    return declared.declaration_result.message_count or 0


@contextmanager
def _queue_errors(queue: str) -> Iterator[None]:
    try:
        yield
    except LinkLostError as lost:
        if lost.kind is Kind.MISSING:
            raise TopologyError(
                f"queue {queue}: missing",
                "check the prefix and the vhost, or create it with `session-worker topology apply`",
            ) from lost
        raise
