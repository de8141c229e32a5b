"""What a worker has at the broker while it is connected. Built whole, torn down whole, never repaired."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING

from worker.broken import LinkLostError
from worker.connection import Wire
from worker.consumer import ConsumeChannel
from worker.delivery import Lane
from worker.publisher import Publisher
from worker.topology import NotPermittedError, TopologyError

if TYPE_CHECKING:
    from collections.abc import Callable

    from contracts.amqp import Names
    from worker.confirms import Message
    from worker.delivery import Delivery
    from worker.settings import Settings
    from worker.topology import Topology


ENTRANCE_SECONDS = 30.0
"""Between two looks whether requests still find their way in."""


class Link:
    """Two connections: one consumes and acknowledges, one publishes. When either is lost, the link is."""

    def __init__(self, consuming: Wire, publishing: Wire, publisher: Publisher) -> None:
        self._consuming = consuming
        self._publishing = publishing
        self._publisher = publisher
        self._lanes: list[ConsumeChannel] = []
        self.consuming = False
        self._tasks = [asyncio.create_task(publisher.run(), name="confirm sweeper")]

    @classmethod
    async def build(cls, settings: Settings, topology: Topology) -> Link:
        """Connect, and see to the topology.

        Raises:
            LinkLostError: the broker cannot be reached, went away meanwhile, or does not let us publish.
            TopologyError: the queues are not what they must be.
        """

        async def open_wire(purpose: str) -> Wire:
            return await Wire.open(settings.amqp_urls, purpose)

        async with AsyncExitStack() as undo:
            consuming = await open_wire("consumer")
            undo.push_async_callback(consuming.close)
            publishing = await open_wire("publisher")
            undo.push_async_callback(publishing.close)
            see_to = topology.apply if settings.declare else topology.verify
            await publishing.unless_lost(see_to(publishing))
            publisher = Publisher(publishing, open_wire)
            undo.push_async_callback(publisher.close)
            await publisher.probe()
            undo.pop_all()
            link = cls(consuming, publishing, publisher)
            if settings.declare:
                link.keep_entrance(topology)
            return link

    def keep_entrance(self, topology: Topology) -> None:
        """Have exchange and binding there, should somebody delete them."""
        self._tasks.append(asyncio.create_task(self._keep_entrance(topology), name="entrance"))

    async def _keep_entrance(self, topology: Topology) -> None:
        while True:
            await asyncio.sleep(ENTRANCE_SECONDS)
            try:
                if not self.blocked:
                    await topology.restore_entrance(self._publishing)
            except NotPermittedError:  # any more; what is there may stay for ever
                return None
            except (LinkLostError, TopologyError) as error:
                if not self.blocked:  # an alarm that began meanwhile is no loss
                    return self.lose(str(error))

    async def subscribe(
        self, names: Names, settings: Settings, deliver: Callable[[Delivery], None], *, consuming: bool
    ) -> None:
        """Ask for deliveries, as many at a time as the settings say.

        Raises:
            LinkLostError: a queue is missing, or the broker went away.
        """
        for lane, queue, prefetch in (
            (Lane.WORK, names.work, settings.concurrency),
            (Lane.SLOW, names.undelivered, 1),
        ):
            channel = await self._consuming.channel(ConsumeChannel, vital=True)
            channel.lane, channel.queue, channel.deliver = lane, queue, deliver
            channel.max_body_bytes = settings.max_body_bytes
            await self._consuming.unless_lost(channel.subscribe(prefetch, consuming=consuming))
            self._lanes.append(channel)
        self.consuming = consuming

    @property
    def blocked(self) -> bool:
        """The broker has an alarm and takes nothing from us for now."""
        return self._publishing.blocked or self._consuming.blocked

    def watch_blocked(self, watcher: Callable[[], None]) -> None:
        for wire in (self._consuming, self._publishing):
            wire.watchers.append(watcher)

    @property
    def trouble(self) -> str:
        """See ``Publisher.trouble``."""
        return self._publisher.trouble

    async def publish(self, message: Message) -> None:
        """See ``Publisher.publish``."""
        await self._publisher.publish(message)

    async def pause(self) -> None:
        """No delivery comes after this."""
        self.consuming = False
        for channel in self._lanes:
            await channel.pause()

    async def resume(self) -> None:
        self.consuming = True
        for channel in self._lanes:
            await channel.resume()

    def lose(self, reason: str) -> None:
        """Give the link up: something that only a new one sets right."""
        self._publishing.lose(reason)

    async def lost(self) -> str:
        """Wait until the link is lost; the reason."""
        done, _ = await asyncio.wait(
            {self._consuming.lost, self._publishing.lost}, return_when=asyncio.FIRST_COMPLETED
        )
        return done.pop().result()

    async def close(self) -> None:
        """Acknowledge what is done and close; bounded in time."""
        for task in self._tasks:
            task.cancel()
        for channel in self._lanes:
            with suppress(LinkLostError):
                channel.flush()
        await asyncio.gather(self._publisher.close(), self._consuming.close(), self._publishing.close())
