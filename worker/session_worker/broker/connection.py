"""Connections to the broker: opened, watched, and closed within a bounded time.

They are aio-pika's, and so are the channels on them but for those of the hot path: deliveries and confirms
are read off the socket before aiormq, the layer below aio-pika, sees them. A connection is never repaired:
after any failure, everything that was built on it is torn down and built again (``link.py``).
"""

from __future__ import annotations

import asyncio
import logging
import random
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar, cast

import aio_pika
import aiormq
from yarl import URL

from session_client.net.aiormq_errors import broker_errors, lost_by
from session_client.net.brokers import NoBrokerError, first_to_open
from session_client.net.errors import ConnectError, ForbiddenError, LinkLostError
from session_client.net.transport import Transport
from session_client.net.urls import HEARTBEAT_SECONDS
from session_worker.broker import frames

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
    from ssl import SSLContext

    from aio_pika.abc import AbstractChannel, UnderlayConnection

    from session_client.net.brokers import Broker

CONNECT_SECONDS = 10.0
SETUP_SECONDS = 15.0
CLOSE_SECONDS = 2.0
SILENT_HEARTBEATS = 1.5
"""How many intervals of heartbeats a broker may be silent. It sends something in each."""
AT_A_TIME = 8
"""For how many operations the broker is asked something at the same time."""
MAX_CHANNELS = 2047
"""How many channels RabbitMQ allows on one connection by default."""

# These loggers print whole messages with their bodies. Our own errors say what matters.
logging.getLogger("aiormq").setLevel(logging.CRITICAL)
logging.getLogger("aio_pika").setLevel(logging.CRITICAL)

AnyChannel = TypeVar("AnyChannel", bound="FrameChannel")
T = TypeVar("T")


class FrameChannel(aiormq.Channel):
    """A channel that takes frames as they come off the socket, ahead of aiormq's queues and tasks.

    ``parent`` is the connection that it is open on.
    """

    parent: Connection

    def feed(self, kind: int, payload: bytes) -> bool:
        """Take a frame, or leave it to aiormq; see ``frames.Taker``."""
        raise NotImplementedError


class Connection:
    """One open connection.

    ``lost`` gets the reason when the connection is gone, or a channel that was opened as ``vital``.
    ``blocked`` says that the broker has an alarm and does not read from this connection for now; ``watchers``
    are called when that changes.
    """

    def __init__(self, library: aio_pika.Connection, transport: _Transport) -> None:
        self._library = library
        self._connection = cast("aiormq.Connection", cast("UnderlayConnection", library.transport).connection)
        self._transport = transport
        self._channel_number = 0
        self._opening: set[int] = set()
        """Numbers of channels of which the library does not know yet."""
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.blocked = False
        self._forbidden = False
        self.watchers: list[Callable[[], None]] = []
        transport.takers[0] = self._note_alarm
        self._connection.closing.add_done_callback(lambda future: self.lose(_reason(future)))

    @classmethod
    async def open(cls, urls: Sequence[str], purpose: str) -> Connection:
        """Connect to one of the brokers, tried in random order. The broker shows ``purpose`` to its
        operators.

        Raises:
            ConnectError: none can be used; permanent if trying again helps with none of them.
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
        library = aio_pika.Connection(broker.url, ssl_context=context)
        library.kwargs["transport_factory"] = transport  # handed on to aiormq
        try:
            async with transport.opening():
                await library.connect()
        except BaseException:
            await library.close()  # or it would begin to close when it is garbage, in whatever thread
            raise
        return cls(library, transport)

    @asynccontextmanager
    async def channel(self, *, confirms: bool = False) -> AsyncIterator[AbstractChannel]:
        """Open a channel of aio-pika's, for anything but the hot path, and close it in the end.

        Args:
            confirms: have publishing raise unless the broker takes the message.

        Raises:
            LinkLostError: it could not be opened, or what is done with it failed at the broker.
        """
        number = self._next_channel_number()
        channel = aio_pika.Channel(
            self._library, number, publisher_confirms=confirms, on_return_raises=confirms
        )
        with broker_errors():
            self._opening.add(number)
            try:
                async with asyncio.timeout(SETUP_SECONDS):
                    await self.unless_lost(channel.initialize())
            finally:
                self._opening.discard(number)
            yield channel
            async with asyncio.timeout(SETUP_SECONDS):
                await self.unless_lost(channel.close())

    async def frame_channel(
        self, factory: type[AnyChannel], *, confirms: bool = False, vital: bool = False
    ) -> AnyChannel:
        """Open a channel for the hot path. When a ``vital`` one closes, the connection counts as lost.

        Raises:
            LinkLostError: it could not be opened.
        """
        number = self._next_channel_number()
        channel = factory(self._connection, number, publisher_confirms=confirms, frame_buffer=10)
        channel.parent = self
        self._connection.channels[number] = channel
        self._transport.takers[number] = channel.feed
        channel.closing.add_done_callback(lambda _: self._transport.takers.pop(number, None))
        with broker_errors():
            async with asyncio.timeout(SETUP_SECONDS):
                await self.unless_lost(channel.open())
        channel.closing.add_done_callback(self._on_vital_closed if vital else _reason)
        return channel

    def _next_channel_number(self) -> int:
        """Return a free number, the one that is unused for longest: the broker may still be closing the
        others.

        Raises:
            ConnectError: none is free.
        """
        most = self._connection.connection_tune.channel_max or MAX_CHANNELS
        for _ in range(most):
            self._channel_number = self._channel_number % most + 1
            if self._channel_number not in {*self._connection.channels, *self._opening}:
                return self._channel_number
        raise ConnectError(
            f"the broker allows too few channels on a connection ({most}): 2 are needed for each operation",
            "raise its channel_max, or serve fewer with SESSION_WORKER_OPERATIONS",
            permanent=True,
        )

    async def unless_lost(self, work: Coroutine[Any, Any, T]) -> T:
        """Await ``work``, which waits for answers on this connection, but no longer than until it is lost.

        aiormq does not tell everybody who waits for an answer that the connection is gone.

        Raises:
            LinkLostError: the connection was lost before.
        """
        task = asyncio.ensure_future(work)
        task.add_done_callback(_forget_failure)  # if both fail, the loss is told
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
            LinkLostError: the connection is gone, noticed or not.
        """
        if self._transport.writer is None or self.lost.done():
            raise LinkLostError("the connection was lost")
        try:
            self._transport.writer.write(data)
        except (RuntimeError, AttributeError) as error:  # it is closed, and `lost` will be set in a moment
            raise LinkLostError("the connection was lost") from error

    @property
    def server(self) -> tuple[str, str]:
        """Product and version, as the broker says."""
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
        if writer is None or self.lost.done():  # asyncio cannot tell once TLS was closed twice
            return 0
        return writer.transport.get_write_buffer_size()

    @property
    def heard(self) -> int:
        """A number that changes whenever the broker sends anything."""
        return self._transport.reader.heard

    @property
    def longest_silence(self) -> float | None:
        """Seconds of silence after which the broker counts as gone; None: there are no heartbeats."""
        return self._connection.heartbeat_timeout * SILENT_HEARTBEATS or None

    def lose(self, reason: str) -> None:
        """Declare the connection lost. Only the first reason counts."""
        if not self.lost.done():
            self.lost.set_result(reason)

    async def close(self) -> None:
        """Close the connection, or cut it after ``CLOSE_SECONDS``. What was sent before arrives unless the
        broker has stopped reading."""
        self.lose("closed")
        closing = asyncio.ensure_future(self._library.close(asyncio.CancelledError))
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

    def _note_alarm(self, _: int, payload: bytes) -> bool:
        """See an alarm begin and end, of which aiormq does not tell; leave all frames to it."""
        if payload.startswith((frames.BLOCKED, frames.UNBLOCKED)):
            self.blocked = payload.startswith(frames.BLOCKED)
            for watcher in self.watchers:
                watcher()
        return False


class _Transport(Transport):
    """``takers`` get the frames of their channels ahead of aiormq."""

    def __init__(self, broker: Broker, context: SSLContext | None, connected: socket.socket) -> None:
        self.takers: dict[int, frames.Taker] = {}
        super().__init__(broker, context, connected)

    def read_from(self, stream: asyncio.StreamReader) -> frames.FrameReader:
        return frames.FrameReader(stream, self.takers)


async def side_by_side(works: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Do what is to be done for each operation, each on channels of its own, so that many operations make the
    start no slower than one. The first of the failures is raised when all have ended."""
    room = asyncio.Semaphore(AT_A_TIME)

    async def do(work: Coroutine[Any, Any, None]) -> None:
        async with room:
            await work

    for failure in await asyncio.gather(*(do(work) for work in works), return_exceptions=True):
        if failure is not None:
            raise failure


def _prepared(url: str, purpose: str) -> URL:
    parsed = URL(url)
    query = {"heartbeat": str(HEARTBEAT_SECONDS), **parsed.query, "name": f"session-worker {purpose}"}
    return parsed.with_query(query)


def _forget_failure(task: asyncio.Task[Any]) -> None:
    if not task.cancelled():
        task.exception()


def _reason(future: asyncio.Future[Any]) -> str:
    return str(lost_by(None if future.cancelled() else future.exception()))
