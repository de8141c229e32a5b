"""Connections to the broker: opened, watched, and closed within a bounded time.

What knows aiormq's inside is here, in ``confirms.py`` and ``consumer.py``. A connection
is never repaired: at any failure what was built on it is torn down and built again (``link.py``).
"""

from __future__ import annotations

import asyncio
import logging
import random
from typing import TYPE_CHECKING, Any, TypeVar, cast

import aiormq
import aiormq.connection
from yarl import URL

from session_client.net.aiormq_errors import broker_errors, lost_by
from session_client.net.brokers import NoBrokerError, first_to_open
from session_client.net.errors import ConnectError, ForbiddenError, LinkLostError
from session_client.net.transport import Transport
from session_client.net.urls import HEARTBEAT_SECONDS
from session_worker.broker import frames

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Coroutine, Sequence
    from ssl import SSLContext

    from session_client.net.brokers import Broker

CONNECT_SECONDS = 10.0
SETUP_SECONDS = 15.0
CLOSE_SECONDS = 2.0
SILENT_HEARTBEATS = 1.5
"""A broker sends something once in each interval of heartbeats, were it a heartbeat. The rest is patience."""
MAX_CHANNELS = 2047
"""Channels on one connection that RabbitMQ allows by default; only a few are ever open at once."""

# These loggers print whole messages, bodies included. What matters of them is in our own errors.
logging.getLogger("aiormq").setLevel(logging.CRITICAL)
logging.getLogger("aio_pika").setLevel(logging.CRITICAL)

AnyChannel = TypeVar("AnyChannel", bound=aiormq.Channel)
T = TypeVar("T")


class FrameChannel(aiormq.Channel):
    """A channel that takes frames as they come off the socket, ahead of aiormq's queues and tasks.

    ``parent`` is the connection that it is open on.
    """

    parent: Connection

    def feed(self, kind: int, payload: bytes) -> bool:
        """Take a frame, or leave it to aiormq. Must not raise: the connection's reader calls it."""
        raise NotImplementedError


class Connection:
    """One open connection.

    ``lost`` gets the reason when it is gone, or when a channel opened with ``vital`` is. ``blocked`` says
    that the broker does not read from us for now (an alarm).
    """

    def __init__(self, connection: _AiormqConnection, transport: _Transport) -> None:
        self._connection = connection
        self._transport = transport
        self._channel_number = 0
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.blocked = False
        self._forbidden = False
        self.watchers: list[Callable[[], None]] = []
        connection.on_blocked = self._on_blocked
        connection.closing.add_done_callback(lambda future: self.lose(_reason(future)))

    @classmethod
    async def open(cls, urls: Sequence[str], purpose: str) -> Connection:
        """Connect to the first address of ``urls``, in random order, where a broker answers.

        Raises:
            ConnectError: none did; permanent when trying again helps with none of them.
        """
        shuffled = [_prepared(url, purpose) for url in random.sample(urls, len(urls))]
        try:
            return await first_to_open(shuffled, cls._open, url_name="amqp_url", seconds=CONNECT_SECONDS)
        except NoBrokerError as error:
            failures = cast("list[ConnectError]", error.failures)
            raise next((each for each in failures if not each.permanent), failures[-1]) from None

    @classmethod
    async def _open(cls, broker: Broker, context: SSLContext | None, connected: socket.socket) -> Connection:
        transport = _Transport(broker, context, connected)
        connection = _AiormqConnection(broker.url, context=context, transport_factory=transport)
        connection.on_blocked = lambda _: None
        async with transport.opening():
            await connection.connect()
        return cls(connection, transport)

    async def channel(
        self, factory: type[AnyChannel], *, confirms: bool = False, vital: bool = False
    ) -> AnyChannel:
        """Open a channel. When a ``vital`` one closes, the connection counts as lost.

        Raises:
            LinkLostError: it could not be opened.
        """
        number = self._next_channel_number()
        with broker_errors():
            async with asyncio.timeout(SETUP_SECONDS):
                channel = factory(self._connection, number, publisher_confirms=confirms, frame_buffer=10)
                self._connection.channels[number] = channel
                if isinstance(channel, FrameChannel):
                    channel.parent = self
                    self._transport.takers[number] = channel.feed
                    channel.closing.add_done_callback(lambda _: self._transport.takers.pop(number, None))
                await self.unless_lost(channel.open())
        if vital:
            channel.closing.add_done_callback(self._on_vital_closed)
        else:
            channel.closing.add_done_callback(_reason)
        return channel

    def _next_channel_number(self) -> int:
        """A free number, as long unused as can be: the broker may not be done with the last ones.

        Raises:
            ConnectError: there is none.
        """
        most = self._connection.connection_tune.channel_max or MAX_CHANNELS
        for _ in range(most):
            self._channel_number = self._channel_number % most + 1
            if self._channel_number not in self._connection.channels:
                return self._channel_number
        raise ConnectError(
            f"the broker allows too few channels on a connection ({most}), a worker needs 2",
            "raise its channel_max",
            permanent=True,
        )

    async def unless_lost(self, work: Coroutine[Any, Any, T]) -> T:
        """What ``work`` gives, which waits for the broker by this connection.

        aiormq does not tell everybody who waits for an answer that the connection is gone: they would wait
        for ``SETUP_SECONDS``.

        Raises:
            LinkLostError: the connection was lost before.
        """
        task = asyncio.ensure_future(work)
        task.add_done_callback(_forget_failure)  # of both, the loss is told
        either: set[asyncio.Future[Any]] = {task, self.lost}
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise (ForbiddenError if self._forbidden else LinkLostError)(self.lost.result())
            return task.result()
        finally:
            if not task.done():
                task.cancel()
                await asyncio.wait({task}, timeout=CLOSE_SECONDS)

    def write(self, data: bytes) -> None:
        """Hand whole frames to the socket at once.

        Raises:
            LinkLostError: the connection is gone, whether that was noticed before or not.
        """
        if self._transport.writer is None or self.lost.done():
            raise LinkLostError("the connection was lost")
        try:
            self._transport.writer.write(data)
        except (RuntimeError, AttributeError) as error:  # it is closed, and `lost` follows in a moment
            raise LinkLostError("the connection was lost") from error

    @property
    def server(self) -> tuple[str, str]:
        """What the broker calls itself: product and version."""
        told = self._connection.server_properties
        return str(told.get("product") or "unknown"), str(told.get("version") or "unknown")

    @property
    def max_frame(self) -> int:
        """Bytes of the largest frame that the broker takes."""
        return int(self._connection.connection_tune.frame_max or 131_072)

    @property
    def unsent(self) -> int:
        """Bytes that the socket has not taken yet."""
        writer = self._transport.writer
        if writer is None or self.lost.done():  # asyncio's TLS that was closed twice cannot be asked
            return 0
        return writer.transport.get_write_buffer_size()

    @property
    def heard(self) -> int:
        """A number that changes whenever the broker sends anything."""
        return self._transport.reader.heard

    @property
    def longest_silence(self) -> float | None:
        """Seconds after which a silent broker is away; None: without heartbeats, silence says nothing."""
        return self._connection.heartbeat_timeout * SILENT_HEARTBEATS or None

    def lose(self, reason: str) -> None:
        """Declare the connection lost. The first reason counts."""
        if not self.lost.done():
            self.lost.set_result(reason)

    async def close(self) -> None:
        """Close politely, and after ``CLOSE_SECONDS`` without politeness. Nothing sent before is cut off
        unless the broker stopped reading."""
        self.lose("closed")
        closing = asyncio.ensure_future(self._connection.close())
        await asyncio.wait({closing}, timeout=CLOSE_SECONDS)
        self._transport.abort()
        if not closing.done():
            await asyncio.wait({closing}, timeout=CLOSE_SECONDS)
        if closing.done() and not closing.cancelled():
            closing.exception()

    def _on_vital_closed(self, closing: asyncio.Future[Any]) -> None:
        lost = lost_by(None if closing.cancelled() else closing.exception())
        self._forbidden = isinstance(lost, ForbiddenError)
        self.lose(str(lost))

    def _on_blocked(self, blocked: bool) -> None:
        self.blocked = blocked
        for watcher in self.watchers:
            watcher()


class _Transport(Transport):
    """``takers`` get the frames of their channels ahead of aiormq."""

    def __init__(self, broker: Broker, context: SSLContext | None, connected: socket.socket) -> None:
        self.takers: dict[int, frames.Taker] = {}
        super().__init__(broker, context, connected)

    def read_from(self, stream: asyncio.StreamReader) -> frames.FrameReader:
        return frames.FrameReader(stream, self.takers)


class _AiormqConnection(aiormq.Connection):
    on_blocked: Callable[[bool], None]

    # aiormq calls these two by their private names and offers no other way to learn of an alarm.
    async def _Connection__handle_connection_blocked(self, frame: Any) -> None:  # noqa: N802
        await super()._Connection__handle_connection_blocked(frame)  # type: ignore[misc]
        self.on_blocked(True)

    async def _Connection__handle_connection_unblocked(self, frame: Any) -> None:  # noqa: N802
        await super()._Connection__handle_connection_unblocked(frame)  # type: ignore[misc]
        self.on_blocked(False)


def _prepared(url: str, purpose: str) -> URL:
    parsed = URL(url)
    query = {"heartbeat": str(HEARTBEAT_SECONDS), **parsed.query, "name": f"session-worker {purpose}"}
    return parsed.with_query(query)


def _forget_failure(task: asyncio.Task[Any]) -> None:
    if not task.cancelled():
        task.exception()


def _reason(future: asyncio.Future[Any]) -> str:
    return str(lost_by(None if future.cancelled() else future.exception()))
