"""The parking lot, read page by page."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import TYPE_CHECKING

from session_client.net.aiormq_errors import broker_errors
from session_client.net.close_reasons import Kind
from session_client.net.errors import LinkLostError
from session_contracts import Names
from session_worker.broker.connection import SETUP_SECONDS, Connection
from session_worker.broker.consumer import Consumer
from session_worker.broker.topology import TopologyError
from session_worker.operators.dead_letters.letter import DeadLetter

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from typing import Self

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
    """The letters that were there, and held by nobody else, when it was opened: ``count`` of them.

    Closing gives back the letters that were not dropped. If this process dies, the broker does.
    """

    def __init__(self, connection: Connection, consumer: Consumer, queue: str, count: int) -> None:
        self._connection = connection
        self._consumer = consumer
        self._queue = queue
        self._held = 0
        self.count = count
        self.on_read: Callable[[int], None] = lambda _: None
        """Hears how many letters each page had."""

    @classmethod
    @asynccontextmanager
    async def open(cls, settings: Settings) -> AsyncIterator[Self]:
        """Raises:
        LinkLostError: the broker cannot be reached, or (when it is read) does not let this user read it.
        TopologyError: there is no parking lot.
        """
        queue = Names(settings.prefix).dead
        connection = await Connection.open(settings.amqp_urls, "dead letters")
        try:
            count = await ready(connection, queue)
            consumer = await connection.frame_channel(Consumer, vital=True)
            lot = cls(connection, consumer, queue, count)
            yield lot
            await lot._give_back()
        finally:
            await connection.close()

    async def pages(self) -> AsyncIterator[list[DeadLetter]]:
        """Yield each letter once, the oldest first.

        Letters parked meanwhile are left out, so that a redrive never meets what it caused itself. Each page
        has its own consumer, so that any number of letters of earlier pages may stay unacknowledged.
        """
        left = self.count
        while left > 0:
            page = await self._page(min(PAGE, left))
            if not page:
                return
            left -= len(page)
            yield [DeadLetter.of(delivery) for delivery in page]

    async def matching(self, wanted: Filter, limit: int | None = None) -> AsyncIterator[list[DeadLetter]]:
        """Yield the oldest ``limit`` letters wanted, page by page."""
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
        """Drop the oldest ``limit`` letters wanted, for good; return how many there were."""
        count = 0
        async for page in self.matching(wanted, limit):
            for letter in page:
                self.drop(letter)
            count += len(page)
        return count

    def drop(self, letter: DeadLetter) -> None:
        """Take the letter away for good."""
        letter.delivery.receipt.ack()
        self._held -= 1

    async def _page(self, size: int) -> list[Delivery]:
        page: list[Delivery] = []
        full = asyncio.Event()

        def deliver(delivery: Delivery) -> None:
            page.append(delivery)
            self._held += 1
            if len(page) == size:
                full.set()

        preparing = self._consumer.prepare(self._queue, deliver, prefetch=size, max_body_bytes=LARGEST)
        await self._connection.unless_lost(preparing)
        with _queue_errors(self._queue):
            await self._connection.unless_lost(self._consumer.resume())
        silence = 0.0
        while not full.is_set():
            arrived = len(page)
            with suppress(TimeoutError):
                async with asyncio.timeout(QUIET_SECONDS):
                    await self._connection.unless_lost(full.wait())
            silence = 0.0 if len(page) > arrived else silence + QUIET_SECONDS
            # Somebody else may hold what was counted, or have dropped it.
            if silence and await ready(self._connection, self._queue) == 0 and len(page) == arrived:
                break
            if silence > STUCK_SECONDS:
                raise LinkLostError(f"queue {self._queue} holds letters and hands none out")
        await self._connection.unless_lost(self._consumer.pause())
        return page

    async def _give_back(self) -> None:
        """Put the letters back and wait until they are there, so that the next command finds them."""
        self._consumer.flush()
        with broker_errors():
            await self._consumer.basic_nack(0, multiple=True, requeue=True)
        with suppress(TimeoutError):
            async with asyncio.timeout(GIVE_BACK_SECONDS):
                while await ready(self._connection, self._queue) < self._held:  # noqa: ASYNC110 -- nobody tells
                    await asyncio.sleep(0.01)


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
