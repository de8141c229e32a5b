"""The exchange and the queues, with every argument they need; declared, checked, and documented from here."""

from __future__ import annotations

from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aio_pika import ExchangeType
from aio_pika.exceptions import ChannelClosed

from session_client.net.aiormq_errors import broker_errors
from session_client.net.close_reasons import Kind
from session_client.net.diagnosis import DiagnosedError
from session_client.net.errors import LinkLostError
from session_worker.broker.connection import SETUP_SECONDS
from session_worker.messages.delivery import SLOW_LANE_LIMIT

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence

    from aio_pika.abc import AbstractChannel, AbstractQueue

    from session_contracts.amqp import Names
    from session_worker.broker.connection import Connection

NO_LIMIT = 1_000_000_000
"""A delivery limit that is never reached. It must be stated: by default, RabbitMQ 4 deletes after 20."""
WORK_LIMIT = 20
DEAD_BYTES = 1_073_741_824
REPLIES_BYTES = 268_435_456
REPLIES_TTL_MS = 86_400_000


class TopologyError(DiagnosedError):
    """Exchange or queues are not what the worker needs."""


class NotPermittedError(TopologyError):
    """This user may not declare it, or not see it."""


@dataclass(frozen=True, slots=True)
class Queue:
    name: str
    arguments: dict[str, Any]
    purpose: str

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
class Topology:
    """What must be there before a worker can work."""

    exchange: str
    routing_key: str
    work: str
    queues: tuple[Queue, ...]

    @classmethod
    def of(cls, names: Names, retry_delays: Sequence[int]) -> Topology:
        retries = tuple(
            Queue(
                names.retry(delay),
                _quorum(to=names.work) | {"x-message-ttl": delay * 1000},
                f"requests that wait {delay} s for their next attempt",
            )
            for delay in retry_delays
        )
        return cls(
            exchange=names.exchange,
            routing_key=names.routing_key,
            work=names.work,
            queues=(
                Queue(
                    names.dead, _quorum() | {"x-max-length-bytes": DEAD_BYTES}, "the parking lot, for people"
                ),
                Queue(
                    names.undelivered,
                    _quorum(to=names.dead, limit=SLOW_LANE_LIMIT),
                    "what the broker gave up on: the slow lane",
                ),
                Queue(names.work, _quorum(to=names.undelivered, limit=WORK_LIMIT), "the work"),
                *retries,
                Queue(
                    names.replies,
                    _quorum()
                    | {
                        "x-message-ttl": REPLIES_TTL_MS,
                        "x-max-length-bytes": REPLIES_BYTES,
                        "x-overflow": "drop-head",
                    },
                    "replies to requests that named no reply_to",
                ),
            ),
        )

    async def apply(self, connection: Connection) -> None:
        """Declare everything. What is there already, and is the same, stays as it is.

        Raises:
            TopologyError: something exists with other arguments, or declaring is forbidden.
            LinkLostError: the connection is gone.
        """
        async with connection.channel() as channel:
            for part, declare in self._parts().items():
                with _objections_to(part):
                    await declare(channel)
            await self._bind(channel)

    async def restore_entrance(self, connection: Connection) -> None:
        """Declare the exchange and the binding through which requests come: the broker tells nobody when one
        of them is deleted.

        Raises:
            TopologyError, LinkLostError: as ``apply``.
        """
        async with connection.channel() as channel:
            with _objections_to(f"exchange {self.exchange}"):
                await self._declare_exchange(channel)
            await self._bind(channel)

    async def verify(self, connection: Connection) -> None:
        """Check that everything is there, and change nothing. What this user may not see counts as there.

        Raises:
            TopologyError: something is missing.
            LinkLostError: the connection is gone.
        """
        for part, declare in self._parts().items():
            with suppress(NotPermittedError):
                async with connection.channel() as channel:
                    with _objections_to(part):
                        await declare(channel, passive=True)

    async def inspect(self, connection: Connection) -> AsyncIterator[Found]:
        """Compare each part with what the worker needs, and change nothing.

        Raises:
            LinkLostError: the connection is gone.
        """
        for part, declare in self._parts().items():
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

    def _parts(self) -> dict[str, Callable[..., Awaitable[AbstractQueue | None]]]:
        """How to declare each part, by its name for people; ``passive``: only if it is there."""
        queues = {f"queue {queue.name}": queue.declare for queue in self.queues}
        return {f"exchange {self.exchange}": self._declare_exchange, **queues}

    async def _declare_exchange(self, channel: AbstractChannel, *, passive: bool = False) -> None:
        await channel.declare_exchange(
            self.exchange, ExchangeType.TOPIC, durable=True, passive=passive, timeout=SETUP_SECONDS
        )

    async def _bind(self, channel: AbstractChannel) -> None:
        with _objections_to(f"queue {self.work}", queue="write", exchange="read"):
            work = await channel.get_queue(self.work, ensure=False)
            await work.bind(self.exchange, self.routing_key, timeout=SETUP_SECONDS)


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
                "SESSION_WORKER_DECLARE=false",
            ) from lost
        if lost.kind is Kind.MISSING:  # maybe another part, which this one is bound to
            raise TopologyError(lost.diagnosis) from lost
        raise TopologyError(f"{part}: {what}", fix) from lost
