"""The exchange and the queues, with every argument they need; declared, checked, and documented from here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import aiormq
from aiormq.exceptions import ChannelClosed
from pamqp import commands as spec

from session_client.net.aiormq_errors import broker_errors
from session_client.net.close_reasons import Kind, close_reason
from session_client.net.diagnosis import DiagnosedError
from session_client.net.errors import LinkLostError
from session_worker.broker.connection import SETUP_SECONDS
from session_worker.messages.delivery import SLOW_LANE_LIMIT

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Coroutine, Sequence

    from session_contracts.amqp import Names
    from session_worker.broker.connection import Connection

NO_LIMIT = 1_000_000_000
"""A delivery limit that is none. It must be stated: RabbitMQ 4 has 20 by default and then deletes."""
WORK_LIMIT = 20
DEAD_BYTES = 1_073_741_824
REPLIES_BYTES = 268_435_456
REPLIES_TTL_MS = 86_400_000


class TopologyError(DiagnosedError):
    """Exchange or queues are not what the worker needs; the message says which, and what to do."""


class NotPermittedError(TopologyError):
    """The broker does not let this user declare it, or look at it; the message says which permission is
    missing."""


@dataclass(frozen=True, slots=True)
class Queue:
    name: str
    arguments: dict[str, Any]
    purpose: str


@dataclass(frozen=True, slots=True)
class Found:
    """What is at the broker in place of one exchange or queue, ``part``. ``messages``: those that wait;
    None, as ``consumers``, where nothing can be counted. ``trouble``: it is not what it must be; of the class
    ``NotPermittedError``: this user may not know."""

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
        """Declare everything; declaring what is there already, and is the same, changes nothing.

        Raises:
            TopologyError: something exists with other arguments, or declaring is forbidden.
            LinkLostError: the connection is gone.
        """
        channel = await connection.channel(aiormq.Channel)
        for part in self._parts():
            await _step(part.name, part.declare(channel))
        await self._bind(channel)
        await _close(channel)

    async def restore_entrance(self, connection: Connection) -> None:
        """Declare exchange and binding, by which requests come: nobody is told when one of them is deleted.

        Raises:
            TopologyError, LinkLostError: as ``apply``.
        """
        channel = await connection.channel(aiormq.Channel)
        exchange = _Exchange(self.exchange)
        await _step(exchange.name, exchange.declare(channel))
        await self._bind(channel)
        await _close(channel)

    async def _bind(self, channel: aiormq.Channel) -> None:
        bind = channel.queue_bind(self.work, self.exchange, self.routing_key, timeout=SETUP_SECONDS)
        await _step(f"queue {self.work}", bind, queue="write", exchange="read")

    async def verify(self, connection: Connection) -> None:
        """Look whether everything is there, changing nothing. What may not be looked at is taken for there.

        Raises:
            TopologyError: something is missing.
            LinkLostError: the connection is gone.
        """
        channel = None
        for part in self._parts():
            channel = channel or await connection.channel(aiormq.Channel)
            try:
                await _step(part.name, part.look(channel))
            except NotPermittedError:  # which closed the channel
                channel = None
        if channel is not None:
            await _close(channel)

    async def inspect(self, connection: Connection) -> AsyncIterator[Found]:
        """Compare one part after another with what the worker needs; changes nothing.

        Raises:
            LinkLostError: the connection is gone.
        """
        for part in self._parts():
            channel = await connection.channel(aiormq.Channel)
            seen, trouble = None, None
            try:
                seen = await _step(part.name, part.look(channel))
                await _step(part.name, part.declare(channel))
            except TopologyError as error:
                trouble = error
            else:
                await _close(channel)
            if isinstance(seen, spec.Queue.DeclareOk):
                yield Found(part.name, seen.message_count, seen.consumer_count, trouble)
            else:
                yield Found(part.name, None, None, trouble)

    def _parts(self) -> list[_Part]:
        return [_Exchange(self.exchange), *(_DeclaredQueue(queue) for queue in self.queues)]


class _Part(Protocol):
    """Something that can be declared, or looked at."""

    name: str

    def declare(self, channel: aiormq.Channel) -> Coroutine[Any, Any, object]: ...

    def look(self, channel: aiormq.Channel) -> Coroutine[Any, Any, object]: ...


class _Exchange:
    def __init__(self, exchange: str) -> None:
        self._exchange = exchange
        self.name = f"exchange {exchange}"

    async def declare(self, channel: aiormq.Channel) -> object:
        return await channel.exchange_declare(
            self._exchange, exchange_type="topic", durable=True, timeout=SETUP_SECONDS
        )

    async def look(self, channel: aiormq.Channel) -> object:
        return await channel.exchange_declare(
            self._exchange, exchange_type="topic", passive=True, timeout=SETUP_SECONDS
        )


class _DeclaredQueue:
    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self.name = f"queue {queue.name}"

    async def declare(self, channel: aiormq.Channel) -> object:
        return await channel.queue_declare(
            self._queue.name, durable=True, arguments=self._queue.arguments, timeout=SETUP_SECONDS
        )

    async def look(self, channel: aiormq.Channel) -> object:
        return await channel.queue_declare(self._queue.name, passive=True, timeout=SETUP_SECONDS)


def _quorum(*, to: str | None = None, limit: int = NO_LIMIT) -> dict[str, Any]:
    """A durable, replicated queue. ``to`` names the queue that gets what dies here, by an explicit routing
    key: without one a requester's CC header would choose."""
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


async def _step(
    part: str, call: Awaitable[object], *, queue: str = "configure or read", exchange: str = "configure"
) -> object:
    """Do one thing; ``queue`` and ``exchange`` are the permissions that it takes on either."""
    try:
        with broker_errors():
            return await call
    except LinkLostError as lost:
        reason = close_reason(str(lost.__cause__), queue=queue, exchange=exchange)
        if not isinstance(lost.__cause__, ChannelClosed) or reason is None or reason.kind is Kind.UNAVAILABLE:
            raise
        what, fix = reason.diagnosis
        if reason.kind is Kind.PERMISSION:
            raise NotPermittedError(
                f"{part}: {what}",
                f"{fix}, or have an operator run `session-worker topology apply` and set "
                "SESSION_WORKER_DECLARE=false",
            ) from lost
        if reason.kind is Kind.MISSING:  # maybe another part, which this one is bound to
            raise TopologyError(reason.diagnosis) from lost
        raise TopologyError(f"{part}: {what}", fix) from lost


async def _close(channel: aiormq.Channel) -> None:
    with broker_errors():
        await channel.close(timeout=SETUP_SECONDS)
