"""Links to a broker that is not there."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from session_client.net.errors import LinkLostError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from session_worker.messages.message import Message


class FakeLink:
    """A link that keeps what is published and is lost after ``life`` seconds; never, if that is None."""

    entrance = trouble = ""

    def __init__(self, life: float | None = None) -> None:
        self.blocked = False
        self.consuming = False
        self.closed = False
        self.published: list[Message] = []
        self.publisher = self
        self.subscribed = asyncio.Event()
        self.watched: Callable[[], None] = lambda: None
        """Called when the worker has begun to watch it."""
        self._life = life
        self._watchers: list[Callable[[], None]] = []

    async def subscribe(self, *_: object, **__: object) -> FakeLink:
        """It is its own subscription, and that of all operations."""
        return self

    async def begin(self, subscriptions: Sequence[FakeLink]) -> None:
        self.consuming = bool(subscriptions)
        self.subscribed.set()

    def watch_blocked(self, watcher: Callable[[], None]) -> None:
        self._watchers.append(watcher)
        self.watched()

    def _changed(self) -> None:
        for watcher in self._watchers:
            watcher()

    async def publish(self, message: Message) -> None:
        self.published.append(message)

    async def pause(self) -> None:
        self.consuming = False

    async def resume(self) -> None:
        self.consuming = True

    async def lost(self) -> str:
        if self._life is None:
            await asyncio.Event().wait()
        await asyncio.sleep(self._life or 0)
        return "it was lost"

    async def close(self) -> None:
        self.closed = True


class SlowSubscription(FakeLink):
    """It takes its time to pause, each more than the one before."""

    def __init__(self, turns: int) -> None:
        super().__init__()
        self._turns = turns

    async def pause(self) -> None:
        for _ in range(self._turns):
            await asyncio.sleep(0.01)
        await super().pause()


class OperationsLink(FakeLink):
    """A link with a subscription for each operation."""

    def __init__(self) -> None:
        super().__init__()
        self.subscriptions: list[SlowSubscription] = []
        self.consuming_at_the_close = 0

    async def subscribe(self, *_: object, **__: object) -> FakeLink:
        self.subscriptions.append(SlowSubscription(len(self.subscriptions)))
        return self.subscriptions[-1]

    async def begin(self, subscriptions: Sequence[FakeLink]) -> None:
        for subscription in subscriptions:
            subscription.consuming = True

    async def close(self) -> None:
        self.consuming_at_the_close = sum(each.consuming for each in self.subscriptions)
        await super().close()


class HalfDeadLink(FakeLink):
    """The connections stand, but the broker does not answer when consuming is to pause or to go on."""

    def __init__(self, failing: str) -> None:
        super().__init__()
        self._failing = failing

    def watch_blocked(self, watcher: Callable[[], None]) -> None:
        super().watch_blocked(watcher)
        self.blocked = True

    async def pause(self) -> None:
        self._answer("pause")
        await super().pause()
        self.blocked = False
        self._changed()

    async def resume(self) -> None:
        self._answer("resume")

    def _answer(self, asked: str) -> None:
        if asked == self._failing:
            raise LinkLostError("TimeoutError: ")


def builder(links: list[FakeLink], stop: asyncio.Event) -> Callable[..., Any]:
    """What stands in for ``Link.build``: it gives these links, and has the worker stop with the last one."""
    waiting = iter(links)
    links[-1].watched = stop.set

    async def build(*_: object) -> FakeLink:
        return next(waiting)

    return build
