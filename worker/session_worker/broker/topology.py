"""The exchange and the queues, with every argument they need; declared, checked, and documented from here."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aio_pika import ExchangeType
from aio_pika.exceptions import ChannelClosed

from session_client.net.aiormq_errors import broker_errors
from session_client.net.close_reasons import Kind
from session_client.net.diagnosis import DiagnosedError
from session_client.net.errors import LinkLostError
from session_worker.broker.connection import SETUP_SECONDS, side_by_side
from session_worker.messages.delivery import SLOW_LANE_LIMIT

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Iterator, Sequence

    from aio_pika.abc import AbstractChannel, AbstractQueue

    from session_contracts.amqp import Names
    from session_worker.broker.connection import Connection

NO_LIMIT = 1_000_000_000
"""A delivery limit that is never reached. It must be stated: by default, RabbitMQ 4 deletes after 20."""
WORK_LIMIT = 20
DEAD_BYTES = 1_073_741_824
REPLIES_BYTES = 268_435_456
REPLIES_TTL_MS = 86_400_000

Declare = Callable[..., Awaitable["AbstractQueue | None"]]
"""Declares a part on a channel; ``passive``: only if it is there."""


class TopologyError(DiagnosedError):
    """Exchange or queues are not what the worker needs."""


class NotPermittedError(TopologyError):
    """This user may not declare it, or not see it."""


@dataclass(frozen=True, slots=True)
class Queue:
    name: str
    arguments: dict[str, Any]
    purpose: str

    @property
    def part(self) -> str:
        """What people read of it in a sentence."""
        return f"queue {self.name}"

    async def declare(self, channel: AbstractChannel, *, passive: bool = False) -> AbstractQueue:
        return await channel.declare_queue(
            self.name, durable=True, passive=passive, arguments=self.arguments, timeout=SETUP_SECONDS
        )


@dataclass(frozen=True, slots=True)
class Found:
    """What the broker has as ``part``, an exchange or a queue.

    ``messages`` wait in it; they and its ``consumers`` are None where they cannot be counted. ``trouble``
    says why it is not what it must be, or (NotPermittedError) why this user cannot know.
    """

    part: str
    messages: int | None
    consumers: int | None
    trouble: TopologyError | None


@dataclass(frozen=True, slots=True)
class OperationQueues:
    """The queues of one operation. ``work`` gets what requesters publish with ``routing_key``."""

    work: str
    routing_key: str
    queues: tuple[Queue, ...]


@dataclass(frozen=True, slots=True)
class Topology:
    """What must be there before a worker can serve its operations."""

    exchange: str
    operations: tuple[OperationQueues, ...]
    replies: Queue

    @classmethod
    def of(cls, names: Names, retry_delays: Sequence[int]) -> Topology:
        """What one operation needs. One without ``retry_delays`` has no retry queues."""
        retries = tuple(
            Queue(
                names.retry(delay),
                _quorum(to=names.work) | {"x-message-ttl": delay * 1000},
                f"requests that wait {delay} s for their next attempt",
            )
            for delay in retry_delays
        )
        dead = Queue(
            names.dead, _quorum() | {"x-max-length-bytes": DEAD_BYTES}, "the parking lot, for people"
        )
        undelivered = Queue(
            names.undelivered,
            _quorum(to=names.dead, limit=SLOW_LANE_LIMIT),
            "what the broker gave up on: the slow lane",
        )
        work = Queue(names.work, _quorum(to=names.undelivered, limit=WORK_LIMIT), "the work")
        replies = Queue(
            names.replies,
            _quorum()
            | {
                "x-message-ttl": REPLIES_TTL_MS,
                "x-max-length-bytes": REPLIES_BYTES,
                "x-overflow": "drop-head",
            },
            "replies to requests that named no reply_to",
        )
        queues = (dead, undelivered, work, *retries)
        return cls(names.exchange, (OperationQueues(names.work, names.routing_key, queues),), replies)

    @classmethod
    def joined(cls, topologies: Sequence[Topology]) -> Topology:
        """What the operations of one installation, one at least, need together."""
        first = topologies[0]
        operations = tuple(operation for each in topologies for operation in each.operations)
        return cls(first.exchange, operations, first.replies)

    @property
    def queues(self) -> tuple[Queue, ...]:
        return (*(queue for operation in self.operations for queue in operation.queues), self.replies)

    async def apply(self, connection: Connection) -> None:
        """Declare everything. What is there already, and is the same, stays as it is.

        Raises:
            TopologyError: something exists with other arguments, or declaring is forbidden.
            LinkLostError: the connection is gone.
        """

        async def declare(operation: OperationQueues) -> None:
            async with connection.channel() as channel:
                for queue in operation.queues:
                    with _objections_to(queue.part):
                        await queue.declare(channel)
                await self._bind(channel, operation)

        async with connection.channel() as channel:
            with _objections_to(self._exchange_part):
                await self._declare_exchange(channel)
            with _objections_to(self.replies.part):
                await self.replies.declare(channel)
        await side_by_side(declare(operation) for operation in self.operations)

    async def restore_entrance(self, connection: Connection) -> None:
        """Declare the exchange and the bindings through which requests come: the broker tells nobody when
        one of them is deleted.

        Raises:
            TopologyError, LinkLostError: as ``apply``.
        """
        async with connection.channel() as channel:
            with _objections_to(self._exchange_part):
                await self._declare_exchange(channel)
            for operation in self.operations:
                await self._bind(channel, operation)

    async def verify(self, connection: Connection) -> None:
        """Check that everything is there, and change nothing. What this user may not see counts as there.

        Raises:
            TopologyError: something is missing.
            LinkLostError: the connection is gone.
        """

        async def look(part: str, declare: Declare) -> None:
            with suppress(NotPermittedError):
                async with connection.channel() as channel:
                    with _objections_to(part):
                        await declare(channel, passive=True)

        async def look_at(operation: OperationQueues) -> None:
            for queue in operation.queues:
                await look(queue.part, queue.declare)

        await look(self._exchange_part, self._declare_exchange)
        await look(self.replies.part, self.replies.declare)
        await side_by_side(look_at(operation) for operation in self.operations)

    async def inspect(self, connection: Connection) -> AsyncIterator[Found]:
        """Compare each part with what the worker needs, and change nothing.

        Raises:
            LinkLostError: the connection is gone.
        """
        queues = ((queue.part, queue.declare) for queue in self.queues)
        parts: Iterable[tuple[str, Declare]] = ((self._exchange_part, self._declare_exchange), *queues)
        for part, declare in parts:
            queue, trouble = None, None
            try:
                async with connection.channel() as channel:
                    with _objections_to(part):
                        queue = await declare(channel, passive=True)
                        await declare(channel)
            except TopologyError as error:
                trouble = error
            counts = queue.declaration_result if queue is not None else None
            yield Found(
                part,
                messages=counts.message_count if counts else None,
                consumers=counts.consumer_count if counts else None,
                trouble=trouble,
            )

    @property
    def _exchange_part(self) -> str:
        return f"exchange {self.exchange}"

    async def _declare_exchange(self, channel: AbstractChannel, *, passive: bool = False) -> None:
        await channel.declare_exchange(
            self.exchange, ExchangeType.TOPIC, durable=True, passive=passive, timeout=SETUP_SECONDS
        )

    async def _bind(self, channel: AbstractChannel, operation: OperationQueues) -> None:
        with _objections_to(f"queue {operation.work}", queue="write", exchange="read"):
            work = await channel.get_queue(operation.work, ensure=False)
            await work.bind(self.exchange, operation.routing_key, timeout=SETUP_SECONDS)


def _quorum(*, to: str | None = None, limit: int = NO_LIMIT) -> dict[str, Any]:
    """Arguments of a replicated queue. ``to`` is the queue that gets its dead letters: by an explicit routing
    key, since without one a requester's CC header would choose."""
    arguments: dict[str, Any] = {
        "x-queue-type": "quorum",
        "x-delivery-limit": limit,
        "x-overflow": "reject-publish",
    }
    if to is not None:
        arguments |= {
            "x-dead-letter-exchange": "",
            "x-dead-letter-routing-key": to,
            "x-dead-letter-strategy": "at-least-once",
        }
    return arguments


@contextmanager
def _objections_to(
    part: str, *, queue: str = "configure or read", exchange: str = "configure"
) -> Iterator[None]:
    """Raise the broker's objections to ``part`` as TopologyError. ``queue`` and ``exchange`` are the
    permissions that are needed on either."""
    try:
        with broker_errors(queue=queue, exchange=exchange):
            yield
    except LinkLostError as lost:
        if not isinstance(lost.__cause__, ChannelClosed) or lost.kind in {None, Kind.UNAVAILABLE}:
            raise
        what, fix = lost.diagnosis
        if lost.kind is Kind.PERMISSION:
            raise NotPermittedError(
                f"{part}: {what}",
                f"{fix}, or have an operator run `session-worker topology apply` and set "
                "SESSION_WORKER_DECLARE=false; SESSION_WORKER_OPERATIONS says which operations to serve, if "
                "not all",
            ) from lost
        if lost.kind is Kind.MISSING:  # maybe another part, which this one is bound to
            raise TopologyError(lost.diagnosis) from lost
        raise TopologyError(f"{part}: {what}", fix) from lost
