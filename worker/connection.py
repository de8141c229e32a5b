"""Connections to the broker: opened, watched, and closed within a bounded time.

Everything that knows of aiormq's inside is here, in ``publisher.py`` and in ``consumer.py``. A connection is
never repaired: at any failure what was built on it is torn down and built again (``link.py``).
"""

from __future__ import annotations

import asyncio
import logging
import random
import socket
import ssl
import struct
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeVar

import aiormq
import aiormq.connection
import pamqp.frame
import pamqp.header
from aiormq.exceptions import AMQPError, AuthenticationError, ProbableAuthenticationError
from yarl import URL

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

DEFAULT_HEARTBEAT = 10
CONNECT_SECONDS = 10.0
SETUP_SECONDS = 15.0
CLOSE_SECONDS = 2.0

# These loggers print whole messages, bodies included. What matters of them is in our own errors.
logging.getLogger("aiormq").setLevel(logging.CRITICAL)
logging.getLogger("aio_pika").setLevel(logging.CRITICAL)


class LinkLostError(Exception):
    """The connection or a channel it cannot do without is gone."""


class ConnectError(LinkLostError):
    """No connection came about. ``permanent`` when trying again cannot help."""

    def __init__(self, message: str, *, permanent: bool) -> None:
        super().__init__(message)
        self.permanent = permanent


class IllegibleHeader(pamqp.header.ContentHeader):
    """Stands in for message properties that cannot be decoded."""


def _tolerate_illegible_properties() -> None:
    """Make one undecodable message one undecodable message.

    pamqp raises while it reads the frame, which costs the whole connection and, on redelivery, the next one
    and the neighbours' delivery counts. There is no public hook: a test watches that this one still works.
    """
    strict = pamqp.frame._unmarshal_header_frame  # noqa: SLF001

    def tolerant(frame_data: bytes) -> pamqp.header.ContentHeader:
        try:
            return strict(frame_data)
        except Exception:  # noqa: BLE001 - any requester can cause any of them
            _, _, body_size = struct.unpack(">HHQ", frame_data[:12])
            return IllegibleHeader(body_size=body_size)

    pamqp.frame._unmarshal_header_frame = tolerant  # noqa: SLF001


_tolerate_illegible_properties()


@contextmanager
def broker_errors() -> Iterator[None]:
    """Turn every way in which aiormq says that a connection or channel is gone into ``LinkLostError``.

    One of them is a ``CancelledError`` that nobody asked for.
    """
    try:
        yield
    except LinkLostError:
        raise
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        raise LinkLostError("the connection was lost") from None
    except (AMQPError, OSError, RuntimeError, RecursionError) as error:
        raise LinkLostError(f"{type(error).__name__}: {error}") from error


class _Transport(aiormq.connection.TransportFactory):
    """Opens the socket, and keeps its writer so that a stuck connection can be aborted."""

    def __init__(self, scheme: str) -> None:
        self._inner = (
            aiormq.connection.TLSTransportFactory()
            if scheme == "amqps"
            else aiormq.connection.TCPTransportFactory()
        )
        self.writer: asyncio.StreamWriter | None = None

    async def create(self, url: URL, **kwargs: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, self.writer = await self._inner.create(url, **kwargs)
        return reader, self.writer


class _Connection(aiormq.Connection):
    on_blocked: Callable[[bool], None]

    # aiormq calls these two by their private names and offers no other way to learn of an alarm.
    async def _Connection__handle_connection_blocked(self, frame: Any) -> None:  # noqa: N802
        await super()._Connection__handle_connection_blocked(frame)  # type: ignore[misc]
        self.on_blocked(True)

    async def _Connection__handle_connection_unblocked(self, frame: Any) -> None:  # noqa: N802
        await super()._Connection__handle_connection_unblocked(frame)  # type: ignore[misc]
        self.on_blocked(False)


async def read_content(channel: aiormq.Channel) -> tuple[pamqp.header.ContentHeader, bytes]:
    """The header and the body that follow a deliver or return frame."""
    header: Any = await channel._get_frame()  # noqa: SLF001
    parts: list[bytes] = []
    left = header.body_size
    while left > 0:
        part: Any = await channel._get_frame()  # noqa: SLF001
        parts.append(part.value)
        left -= len(part.value)
    return header, parts[0] if len(parts) == 1 else b"".join(parts)


AnyChannel = TypeVar("AnyChannel", bound=aiormq.Channel)


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
        self.watchers: list[Callable[[], None]] = []
        connection.on_blocked = self._on_blocked
        connection.closing.add_done_callback(lambda future: self.lose(_reason(future)))

    @classmethod
    async def open(cls, urls: Sequence[str], purpose: str) -> Wire:
        """Connect to the first of ``urls``, in random order, that answers.

        Raises:
            ConnectError: none did.
        """
        failure: ConnectError | None = None
        for url in random.sample(urls, len(urls)):
            try:
                return await cls._open(_prepared(url, purpose))
            except ConnectError as error:
                failure = error
        raise failure or ConnectError("no URL given", permanent=True)

    @classmethod
    async def _open(cls, url: URL) -> Wire:
        transport = _Transport(url.scheme)
        connection = _Connection(url, transport_factory=transport)
        connection.on_blocked = lambda _: None
        try:
            with broker_errors():
                async with asyncio.timeout(CONNECT_SECONDS):
                    await connection.connect()
        except LinkLostError as error:
            _abort(transport)
            raise _connect_error(error.__cause__ or error, url) from error
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
        self._channel_number += 1
        with broker_errors():
            async with asyncio.timeout(SETUP_SECONDS):
                channel = factory(
                    self._connection, self._channel_number, publisher_confirms=confirms, frame_buffer=10
                )
                self._connection.channels[self._channel_number] = channel
                await channel.open()
        if vital:
            channel.closing.add_done_callback(lambda future: self.lose(_reason(future)))
        else:
            channel.closing.add_done_callback(_reason)
        return channel

    def write(self, frames: bytes) -> None:
        """Hand frames to the socket at once; whole frames only."""
        if self._transport.writer is None or self.lost.done():
            raise LinkLostError("the connection was lost")
        self._transport.writer.write(frames)

    @property
    def unsent(self) -> int:
        """Bytes that the socket has not taken yet."""
        writer = self._transport.writer
        return 0 if writer is None else writer.transport.get_write_buffer_size()

    async def drain(self) -> None:
        if self._transport.writer is not None:
            with broker_errors():
                await self._transport.writer.drain()

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

    def _on_blocked(self, blocked: bool) -> None:
        self.blocked = blocked
        for watcher in self.watchers:
            watcher()


def _prepared(url: str, purpose: str) -> URL:
    parsed = URL(url)
    query = {"heartbeat": str(DEFAULT_HEARTBEAT), **parsed.query, "name": f"session-worker {purpose}"}
    return parsed.with_query(query)


def _reason(future: asyncio.Future[Any]) -> str:
    if future.cancelled():
        return "the connection was lost"
    error = future.exception()
    return "closed" if error is None else f"{type(error).__name__}: {error}"


def _abort(transport: _Transport) -> None:
    if transport.writer is not None:
        with suppress(Exception):
            transport.writer.transport.abort()


def _connect_error(cause: BaseException, url: URL) -> ConnectError:
    where = f"{url.host}:{url.port or (5671 if url.scheme == 'amqps' else 5672)}"
    user = url.user or "guest"
    text = str(cause)
    if isinstance(cause, ProbableAuthenticationError | AuthenticationError) or "ACCESS_REFUSED" in text:
        return ConnectError(
            f"the broker at {where} refused the login of user {user}; check user and password in amqp_url, "
            "and that the user may enter the vhost",
            permanent=True,
        )
    if "vhost" in text or "NOT_ALLOWED" in text:
        vhost = URL(url).path.lstrip("/") or "/"
        return ConnectError(
            f"the broker at {where} has no vhost {vhost}, or user {user} may not enter it; create it "
            "(rabbitmqctl add_vhost) or correct amqp_url",
            permanent=True,
        )
    if isinstance(cause, ssl.SSLError) or isinstance(cause.__cause__, ssl.SSLError):
        return ConnectError(
            f"no secure connection to {where}: {cause}; check amqps://, the port and the certificates",
            permanent=True,
        )
    if isinstance(cause, socket.gaierror) or isinstance(cause.__cause__, socket.gaierror):
        return ConnectError(f"the host name {url.host} is not known; check amqp_url", permanent=False)
    if isinstance(cause, TimeoutError):
        return ConnectError(
            f"the broker at {where} did not answer within {CONNECT_SECONDS:g} s", permanent=False
        )
    return ConnectError(
        f"the broker at {where} cannot be reached ({type(cause).__name__}: {cause}); is it running, and is "
        "amqp_url right?",
        permanent=False,
    )
