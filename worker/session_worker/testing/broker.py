"""A broker in memory: what a worker needs of one to settle its deliveries, and no more."""

from __future__ import annotations

import heapq
from collections import defaultdict
from datetime import timedelta
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, NamedTuple

from session_worker.messages.delivery import Delivery
from session_worker.messages.headers import DELIVERY_COUNT
from session_worker.messages.immutable import immutable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from session_contracts import Names
    from session_worker.messages.message import Message
    from session_worker.testing.clock import Clock


class Waiting(NamedTuple):
    """A copy in a retry queue. ``number`` keeps those that are due together in order."""

    due: datetime
    number: int
    queue: str
    message: Message


@immutable
class Receipt:
    """Settles a delivery of ``MemoryBroker``."""

    forget: Callable[[], object]
    deliver_again: Callable[[], None]
    valid: bool = True

    def ack(self) -> None:
        self.forget()

    def requeue(self) -> None:
        self.forget()
        self.deliver_again()


class MemoryBroker:
    """Delivers what is published to a work queue at once, and to a retry queue when it is due. Dead letters
    stay in ``parked``, all else in ``replies``, by its queue."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._consumers: dict[str, Callable[[Delivery], None]] = {}
        self._delays: dict[str, tuple[str, int]] = {}
        self._lots: set[str] = set()
        self._waiting: list[Waiting] = []
        self._numbers = count()
        self._in_hand: dict[int, Callable[[], None]] = {}
        """For each delivery that is not settled, how to deliver it again."""
        self.parked: list[Delivery] = []
        self.replies: defaultdict[str, list[Message]] = defaultdict(list)
        self.listeners: dict[str, Callable[[Message], None]] = {}

    def serve(self, names: Names, retry_delays: Sequence[int], take: Callable[[Delivery], None]) -> None:
        """Have the queues of one operation, and ``take`` called for each delivery."""
        self._consumers[names.work] = take
        self._delays |= {names.retry(delay): (names.work, delay) for delay in retry_delays}
        self._lots.add(names.dead)

    def stop(self) -> None:
        """Deliver nothing more."""
        self._consumers.clear()

    def has(self, queue: str) -> bool:
        """Whether somebody consumes from a work queue of this name."""
        return queue in self._consumers

    async def publish(self, message: Message) -> None:
        """Take a message, as the broker's default exchange does; every queue is there."""
        queue = message.queue
        if queue in self._consumers:
            self._deliver(queue, message)
        elif queue in self._delays:
            work, delay = self._delays[queue]
            due = self._clock.now() + timedelta(seconds=delay)
            heapq.heappush(self._waiting, Waiting(due, next(self._numbers), work, message))
        elif queue in self._lots:
            self.parked.append(_delivery(queue, message, 0, Receipt(lambda: None, lambda: None)))
        else:
            self.replies[queue].append(message)
            if queue in self.listeners:
                self.listeners[queue](message)

    @property
    def busy(self) -> bool:
        """Whether a delivery is not settled yet."""
        return bool(self._in_hand)

    @property
    def next_due(self) -> datetime | None:
        """When the first of the copies that wait comes back."""
        return self._waiting[0].due if self._waiting else None

    def deliver_due(self) -> None:
        """Deliver what has waited for as long as its queue says."""
        while self._waiting and self._waiting[0].due <= self._clock.now():
            _, _, queue, message = heapq.heappop(self._waiting)
            self._deliver(queue, message)

    def _deliver(self, queue: str, message: Message, times: int = 0) -> None:
        if queue in self._consumers:
            number = next(self._numbers)
            self._in_hand[number] = again = partial(self._deliver, queue, message, times + 1)
            receipt = Receipt(partial(self._in_hand.pop, number, None), again)
            self._consumers[queue](_delivery(queue, message, times, receipt))

    def deliver_again(self) -> None:
        """Deliver what was not settled, as after the loss of a connection."""
        lost, self._in_hand = self._in_hand, {}
        for again in lost.values():
            again()


def _delivery(queue: str, message: Message, times: int, receipt: Receipt) -> Delivery:
    """``times``: how often it was delivered before."""
    properties = message.properties
    counted = {DELIVERY_COUNT: times} if times else {}
    return Delivery(
        message.body,
        receipt,
        queue=queue,
        redelivered=times > 0,
        correlation_id=properties.correlation_id,
        reply_to=properties.reply_to,
        message_id=properties.message_id,
        content_type=properties.content_type,
        content_encoding=properties.content_encoding,
        type=properties.type,
        expiration=properties.expiration,
        timestamp=properties.timestamp,
        headers={**(properties.headers or {}), **counted},
    )
