"""Connections to the broker: opened, watched, and closed within a bounded time.

Everything that knows of aiormq's inside is here, in ``publisher.py`` and in ``consumer.py``. A connection is
never repaired: at any failure what was built on it is torn down and built again (``link.py``).
"""

from __future__ import annotations

import asyncio
import logging
import random
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeVar, cast

import aiormq
import aiormq.connection
from aiormq.exceptions import (
    AMQPError,
    AuthenticationError,
    ChannelAccessRefused,
    ConnectionInternalError,
    ProbableAuthenticationError,
)
from yarl import URL

from client import tls
from contracts.trouble import access_trouble, refusal, tls_hang_up, tls_trouble, unreachable
from worker import frames

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator, Sequence

DEFAULT_HEARTBEAT = 10
CONNECT_SECONDS = 10.0
SETUP_SECONDS = 15.0
CLOSE_SECONDS = 2.0
READ_BYTES = 262_144
SILENT_HEARTBEATS = 1.5
"""A broker sends something once in each interval of heartbeats, were it a heartbeat. The rest is patience."""
MAX_CHANNELS = 2047
"""Channels on one connection that RabbitMQ allows by default; only a few are ever open at once."""

# These loggers print whole messages, bodies included. What matters of them is in our own errors.
logging.getLogger("aiormq").setLevel(logging.CRITICAL)
logging.getLogger("aio_pika").setLevel(logging.CRITICAL)


class LinkLostError(Exception):
    """The connection or a channel it cannot do without is gone. ``booting``: the broker failed inside, as it
    does while it starts."""

    def __init__(self, message: str, *, booting: bool = False) -> None:
        super().__init__(message)
        self.booting = booting


class ConnectError(LinkLostError):
    """No connection came about. ``permanent`` when trying again cannot help."""

    def __init__(self, message: str, *, permanent: bool, booting: bool = False) -> None:
        super().__init__(message, booting=booting)
        self.permanent = permanent


class ForbiddenError(LinkLostError):
    """The broker's user lacks a permission; the message says which. Trying again at once cannot help."""

    permanent = True


@contextmanager
def broker_errors() -> Iterator[None]:
    """Turn every way in which aiormq says that a connection or channel is gone into ``LinkLostError``.

    One of them is a ``CancelledError`` that nobody asked for, another a ``StopAsyncIteration`` when the peer
    hangs up during the handshake.
    """
    try:
        yield
    except LinkLostError:
        raise
    except ConnectionInternalError as error:
        raise LinkLostError(
            f"the broker failed inside ({error}), as it may while it starts; its log says why", booting=True
        ) from error
    except ChannelAccessRefused as error:
        raise ForbiddenError(access_trouble(str(error), queue="read") or str(error)) from error
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        raise LinkLostError("the connection was lost") from None
    except (AMQPError, OSError, RuntimeError, RecursionError, StopAsyncIteration) as error:
        raise LinkLostError(f"{type(error).__name__}: {error}") from error


class RawChannel(aiormq.Channel):
    """A channel that takes frames as they come off the socket, ahead of aiormq's queues and tasks."""

    wire: Wire

    def feed(self, kind: int, payload: bytes) -> bool:
        """Take a frame, or leave it to aiormq. Must not raise: the connection's reader calls it."""
        raise NotImplementedError


class _FrameReader:
    """Stands between the socket's stream and aiormq, which reads from it frame by frame.

    It reads in large pieces, and hands the frames that a raw channel takes to that channel at once.
    ``farewell`` is what the broker said when it closed the connection; during the handshake aiormq
    does not tell. ``heard`` counts how often anything came in.
    """

    def __init__(self, stream: asyncio.StreamReader, channels: dict[int, RawChannel]) -> None:
        self._stream = stream
        self._channels = channels
        self._buffer = b""
        self._position = 0
        self._left = 0
        self._alive_at = 0.0
        self.farewell = ""
        self.heard = 0

    def at_eof(self) -> bool:
        return self._position == len(self._buffer) and self._stream.at_eof()

    async def readexactly(self, count: int) -> bytes:
        """The next bytes of the frames that are left to aiormq; it never asks for more than is in one."""
        if self._left == 0:
            self._left = await self._to_next_frame()
        data = self._buffer[self._position : self._position + count]
        self._position += count
        self._left -= count
        return data

    async def _to_next_frame(self) -> int:
        """Go to the next frame that no raw channel takes; its size in bytes."""
        fed = False
        while True:
            found = frames.frame_at(self._buffer, self._position)
            if found is None:
                if fed and self._sign_of_life():
                    return len(frames.HEARTBEAT)
                await self._fill()
                continue
            kind, number, end = found
            channel = self._channels.get(number)
            payload = self._buffer[self._position + 7 : end - 1]
            if channel is None or not channel.feed(kind, payload):
                if payload.startswith(frames.CLOSE_CONNECTION):
                    self.farewell = frames.reply_text(payload)
                return end - self._position
            self._position = end
            fed = True

    def _sign_of_life(self) -> bool:
        """Let aiormq, which takes a connection without frames for dead, see a heartbeat now and then."""
        now = asyncio.get_running_loop().time()
        if now - self._alive_at < 1:
            return False
        self._alive_at = now
        self._buffer = frames.HEARTBEAT + self._buffer[self._position :]
        self._position = 0
        return True

    async def _fill(self) -> None:
        data = await self._stream.read(READ_BYTES)
        if not data:
            raise asyncio.IncompleteReadError(self._buffer[self._position :], None)
        self.heard += 1
        self._buffer = self._buffer[self._position :] + data
        self._position = 0


class _Transport(aiormq.connection.TransportFactory):
    """Opens the socket, and keeps its writer so that a stuck connection can be aborted."""

    def __init__(self, scheme: str) -> None:
        self._inner = (
            aiormq.connection.TLSTransportFactory()
            if scheme == "amqps"
            else aiormq.connection.TCPTransportFactory()
        )
        self.reader: _FrameReader | None = None
        self.writer: asyncio.StreamWriter | None = None
        self.channels: dict[int, RawChannel] = {}

    async def create(self, url: URL, **kwargs: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        stream, self.writer = await self._inner.create(url, **kwargs)
        self.reader = _FrameReader(stream, self.channels)
        return cast("asyncio.StreamReader", self.reader), self.writer


class _Connection(aiormq.Connection):
    on_blocked: Callable[[bool], None]

    # aiormq calls these two by their private names and offers no other way to learn of an alarm.
    async def _Connection__handle_connection_blocked(self, frame: Any) -> None:  # noqa: N802
        await super()._Connection__handle_connection_blocked(frame)  # type: ignore[misc]
        self.on_blocked(True)

    async def _Connection__handle_connection_unblocked(self, frame: Any) -> None:  # noqa: N802
        await super()._Connection__handle_connection_unblocked(frame)  # type: ignore[misc]
        self.on_blocked(False)


AnyChannel = TypeVar("AnyChannel", bound=aiormq.Channel)
T = TypeVar("T")


class Wire:
    """One open connection.

    ``lost`` gets the reason when it is gone, or when a channel opened with ``vital`` is. ``blocked`` says
    that the broker does not read from us for now (an alarm).
    """

    def __init__(self, connection: _Connection, transport: _Transport) -> None:
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
    async def open(cls, urls: Sequence[str], purpose: str) -> Wire:
        """Connect to the first of ``urls``, in random order, that answers.

        Raises:
            ConnectError: none did; permanent when trying again helps with none of them.
        """
        failure: ConnectError | None = None
        for url in random.sample(urls, len(urls)):
            try:
                return await cls._open(_prepared(url, purpose))
            except ConnectError as error:
                failure = error if failure is None or failure.permanent else failure
        raise failure or ConnectError("no URL given", permanent=True)

    @classmethod
    async def _open(cls, url: URL) -> Wire:
        transport = _Transport(url.scheme)
        try:
            context = await tls.context_for(url)
        except tls.UnusableError as error:
            raise ConnectError(str(error), permanent=True) from None
        connection = _Connection(url, context=context, transport_factory=transport)
        connection.on_blocked = lambda _: None
        try:
            with broker_errors():
                async with asyncio.timeout(CONNECT_SECONDS):
                    await connection.connect()
        except LinkLostError as error:
            _abort(transport)
            farewell = transport.reader.farewell if transport.reader else ""
            raise _connect_error(error.__cause__ or error, url, farewell) from error
        except BaseException:
            _abort(transport)
            raise
        return cls(connection, transport)

    async def channel(
        self, factory: type[AnyChannel], *, confirms: bool = False, vital: bool = False
    ) -> AnyChannel:
        """Open a channel. When a ``vital`` one closes, the wire counts as lost.

        Raises:
            LinkLostError: it could not be opened.
        """
        number = self._next_channel_number()
        with broker_errors():
            async with asyncio.timeout(SETUP_SECONDS):
                channel = factory(self._connection, number, publisher_confirms=confirms, frame_buffer=10)
                self._connection.channels[number] = channel
                if isinstance(channel, RawChannel):
                    channel.wire = self
                    self._transport.channels[number] = channel
                    channel.closing.add_done_callback(lambda _: self._transport.channels.pop(number, None))
                await self.unless_lost(channel.open())
        if vital:
            channel.closing.add_done_callback(self._on_vital_closed)
        else:
            channel.closing.add_done_callback(_reason)
        return channel

    def _next_channel_number(self) -> int:
        """A free number, as long unused as can be: the broker may not be done with the last ones."""
        while True:
            self._channel_number = self._channel_number % MAX_CHANNELS + 1
            if self._channel_number not in self._connection.channels:
                return self._channel_number

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
        except RuntimeError as error:  # uvloop's end is closed a moment before anybody is told
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
        return 0 if writer is None else writer.transport.get_write_buffer_size()

    @property
    def heard(self) -> int:
        """A number that changes whenever the broker sends anything."""
        reader = self._transport.reader
        return 0 if reader is None else reader.heard

    @property
    def longest_silence(self) -> float | None:
        """Seconds after which a silent broker is away; None: without heartbeats, silence says nothing."""
        return self._connection.heartbeat_timeout * SILENT_HEARTBEATS or None

    def lose(self, reason: str) -> None:
        """Declare the wire lost. The first reason counts."""
        if not self.lost.done():
            self.lost.set_result(reason)

    async def close(self) -> None:
        """Close politely, and after ``CLOSE_SECONDS`` without politeness. Nothing sent before is cut off
        unless the broker stopped reading."""
        self.lose("closed")
        closing = asyncio.ensure_future(self._connection.close())
        await asyncio.wait({closing}, timeout=CLOSE_SECONDS)
        _abort(self._transport)
        if not closing.done():
            await asyncio.wait({closing}, timeout=CLOSE_SECONDS)
        if closing.done() and not closing.cancelled():
            closing.exception()

    def _on_vital_closed(self, closing: asyncio.Future[Any]) -> None:
        reason = _reason(closing)
        trouble = access_trouble(reason, queue="read")
        self._forbidden = trouble is not None
        self.lose(trouble or reason)

    def _on_blocked(self, blocked: bool) -> None:
        self.blocked = blocked
        for watcher in self.watchers:
            watcher()


def _prepared(url: str, purpose: str) -> URL:
    parsed = URL(url)
    query = {"heartbeat": str(DEFAULT_HEARTBEAT), **parsed.query, "name": f"session-worker {purpose}"}
    return parsed.with_query(query)


def _forget_failure(task: asyncio.Task[Any]) -> None:
    if not task.cancelled():
        task.exception()


def _reason(future: asyncio.Future[Any]) -> str:
    if future.cancelled():
        return "the connection was lost"
    error = future.exception()
    return "closed" if error is None else f"{type(error).__name__}: {error}"


def _abort(transport: _Transport) -> None:
    if transport.writer is not None:
        with suppress(Exception):
            transport.writer.transport.abort()


def _connect_error(cause: BaseException, url: URL, farewell: str) -> ConnectError:
    port = url.port or (5671 if url.scheme == "amqps" else 5672)
    where = f"the broker at {url.host}:{port}"
    if not farewell and isinstance(cause, ProbableAuthenticationError | AuthenticationError):
        farewell = "ACCESS_REFUSED"
    if farewell:
        user, vhost = url.user or "guest", url.path.lstrip("/") or "/"
        said = refusal(farewell, where, user=user, vhost=vhost, url="amqp_url")
        return ConnectError(
            said.sentence, permanent=not said.may_pass, booting=farewell.startswith("INTERNAL_ERROR")
        )
    if url.scheme == "amqps":
        if trouble := tls_trouble(cause, where, "cafile"):
            return ConnectError(trouble, permanent=True)
        if trouble := tls_hang_up(cause, where):
            return ConnectError(trouble, permanent=False)
    if isinstance(cause, TimeoutError):
        return ConnectError(f"{where} did not answer within {CONNECT_SECONDS:g} s", permanent=False)
    return ConnectError(unreachable(cause, where, "amqp_url"), permanent=False)
