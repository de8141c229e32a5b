"""A worker's connections to the broker. They are built together, torn down together, and never repaired."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, suppress
from functools import partial
from typing import TYPE_CHECKING

from session_client.net.errors import LinkLostError
from session_contracts.amqp import Names
from session_worker.broker import marker
from session_worker.broker.connection import Connection, side_by_side
from session_worker.broker.consumer import Consumer
from session_worker.broker.publisher import Publisher
from session_worker.broker.topology import NotPermittedError, TopologyError
from session_worker.messages.delivery import Lane
from session_worker.telemetry.events import EntranceNotKept, QueueOwnerUnknown, unheard

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Mapping

    from session_worker.broker.topology import Topology
    from session_worker.messages.delivery import Delivery
    from session_worker.settings import Settings
    from session_worker.telemetry.events import Emit


ENTRANCE_SECONDS = 30.0
"""How often exchange and bindings are declared anew."""
LONGEST_ENTRANCE_SECONDS = 600.0
"""The same after several failures in a row."""
OWNER_SECONDS = 10.0
"""The longest time that the link waits for the marker."""


class Subscription:
    """The consumers of one operation: its slow lane, then its work. ``consuming`` says that they ask for
    deliveries."""

    def __init__(self, consumers: Mapping[Lane, Consumer]) -> None:
        self._consumers = consumers
        self.consuming = False

    async def begin(self, lane: Lane) -> None:
        await self._consumers[lane].resume()

    async def pause(self) -> None:
        """Stop consuming. No delivery comes after this returns."""
        self.consuming = False
        for consumer in self._consumers.values():
            await consumer.pause()

    async def resume(self) -> None:
        self.consuming = True
        for consumer in self._consumers.values():
            await consumer.resume()

    def flush(self) -> None:
        """Send the acknowledgements that wait for the end of this turn of the event loop."""
        for consumer in self._consumers.values():
            with suppress(LinkLostError):
                consumer.flush()


class Link:
    """Two connections: one consumes and acknowledges, the other publishes. The link is lost when one of them
    is."""

    def __init__(self, consuming: Connection, publishing: Connection, publisher: Publisher) -> None:
        self._consuming = consuming
        self._publishing = publishing
        self.publisher = publisher
        self._subscriptions: list[Subscription] = []
        self.entrance = ""
        """Why requests may not reach the work queue; empty as far as is known."""
        self._tasks = [asyncio.create_task(publisher.run(), name="confirm sweeper")]

    @classmethod
    async def build(
        cls, settings: Settings, topology: Topology, emit: Emit = unheard, ours: marker.Owner | None = None
    ) -> Link:
        """Connect, declare or check the topology, and check that the queues belong to our ledger.

        Raises:
            LinkLostError: the broker cannot be reached, went away meanwhile, or does not let us publish.
            TopologyError: the queues are not what they must be, or belong to another ledger.
        """
        connect = partial(Connection.open, settings.amqp_urls)
        async with AsyncExitStack() as undo:
            consuming = await connect("consumer")
            undo.push_async_callback(consuming.close)
            publishing = await connect("publisher")
            undo.push_async_callback(publishing.close)
            see_to = topology.apply if settings.declare else topology.verify
            await publishing.unless_lost(see_to(publishing))
            publisher = Publisher(publishing, connect)
            undo.push_async_callback(publisher.close)
            await publisher.probe()
            if ours is not None:
                await _check_owner(settings, connect, ours, emit)
            undo.pop_all()
            link = cls(consuming, publishing, publisher)
            if settings.declare:
                entrance = link._keep_entrance(topology, connect, emit)
                link._tasks.append(asyncio.create_task(entrance, name="entrance"))
            return link

    async def _keep_entrance(
        self, topology: Topology, connect: Callable[[str], Awaitable[Connection]], emit: Emit
    ) -> None:
        """Declare exchange and bindings again and again, in case somebody deletes them.

        Requests that are in the queues already can be served without them, so no failure here may cost the
        link. Each time a separate connection is opened and closed: the broker closes a whole connection over
        one channel too many.
        """
        pause, said = ENTRANCE_SECONDS, ""
        while True:
            await asyncio.sleep(pause)
            try:
                async with AsyncExitStack() as undo:
                    connection = await connect("entrance")
                    undo.push_async_callback(connection.close)
                    await connection.unless_lost(topology.restore_entrance(connection))
            except (LinkLostError, TopologyError) as error:
                # Without a permission or a connection nobody knows: all may still be in order.
                wrong = isinstance(error, TopologyError) and not isinstance(error, NotPermittedError)
                self.entrance = str(error) if wrong else ""
                if said != str(error):
                    said = str(error)
                    emit(EntranceNotKept(said))
                pause = min(2 * pause, LONGEST_ENTRANCE_SECONDS)
            else:
                self.entrance = said = ""
                pause = ENTRANCE_SECONDS

    async def subscribe(
        self, names: Names, deliver: Callable[[Delivery], None], *, prefetch: int, max_body_bytes: int
    ) -> Subscription:
        """Prepare to consume the work queue of an operation and that of its undelivered requests.

        Raises:
            LinkLostError: there can be no more channels, or the broker went away.
        """
        consumers: dict[Lane, Consumer] = {}
        lanes = ((Lane.SLOW, names.undelivered, 1), (Lane.WORK, names.work, prefetch))
        for lane, queue, count in lanes:
            consumer = await self._consuming.frame_channel(Consumer, vital=True)
            preparing = consumer.prepare(
                queue, deliver, prefetch=count, max_body_bytes=max_body_bytes, lane=lane
            )
            await self._consuming.unless_lost(preparing)
            consumers[lane] = consumer
        subscription = Subscription(consumers)
        self._subscriptions.append(subscription)
        return subscription

    async def begin(self, subscriptions: Collection[Subscription]) -> None:
        """Consume. The work comes last: requests that are delivered before another consumer is refused go
        back with their delivery counted, once for each link that is tried.

        Raises:
            LinkLostError: a queue is missing, or the broker went away.
        """
        for lane in Lane.SLOW, Lane.WORK:
            beginning = side_by_side(subscription.begin(lane) for subscription in subscriptions)
            await self._consuming.unless_lost(beginning)
        for subscription in subscriptions:
            subscription.consuming = True

    @property
    def blocked(self) -> bool:
        """Whether the broker has an alarm and reads nothing from this link for now."""
        return self._publishing.blocked or self._consuming.blocked

    def watch_blocked(self, watcher: Callable[[], None]) -> None:
        for connection in (self._consuming, self._publishing):
            connection.watchers.append(watcher)

    def lose(self, reason: str) -> None:
        """Give the link up, because only a new one can help."""
        self._publishing.lose(reason)

    async def lost(self) -> str:
        """Wait until the link is lost, and return the reason."""
        done, _ = await asyncio.wait(
            {self._consuming.lost, self._publishing.lost}, return_when=asyncio.FIRST_COMPLETED
        )
        return done.pop().result()

    async def close(self) -> None:
        """Acknowledge what is done and disconnect, within a bounded time."""
        for task in self._tasks:
            task.cancel()
        for subscription in self._subscriptions:
            subscription.flush()
        await asyncio.gather(
            self.publisher.close(),
            self._consuming.close(),
            self._publishing.close(),
            asyncio.wait(self._tasks),
        )


async def _check_owner(
    settings: Settings, connect: Callable[[str], Awaitable[Connection]], ours: marker.Owner, emit: Emit
) -> None:
    """Raise TopologyError if the queues belong to another ledger than ``ours``. Requests that were answered
    from that one would be handled once more.

    It is only reported if nobody can tell: the queues or the user's permissions may be from an earlier
    release, or the broker may not have streams. A separate connection is used, for some brokers close a whole
    one over a stream.
    """
    names = Names(settings.prefix)
    try:
        async with AsyncExitStack() as undo, asyncio.timeout(OWNER_SECONDS):
            connection = await connect("ledger")
            undo.push_async_callback(connection.close)
            if settings.declare:
                await connection.unless_lost(marker.declare(connection, names.ledger))
            owner = await connection.unless_lost(marker.mark(connection, names.ledger, ours))
    except LinkLostError as lost:
        emit(QueueOwnerUnknown(names.ledger, str(lost)))
    except TimeoutError:
        emit(QueueOwnerUnknown(names.ledger, f"the broker did not answer within {OWNER_SECONDS:g} s"))
    else:
        if owner.identity != ours.identity:
            raise TopologyError(marker.mismatch(names, owner))
