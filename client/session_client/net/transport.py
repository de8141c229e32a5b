"""The socket under a connection of aiormq, and what passes by on it that aiormq does not tell."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, cast

from aiormq.connection import TransportFactory

from session_client.net.aiormq_errors import broker_errors
from session_client.net.errors import LinkLostError

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncIterator
    from ssl import SSLContext

    from yarl import URL

    from session_client.net.brokers import Broker

_CLOSE_CONNECTION = b"\x00\x0a\x00\x32"
"""How the payload of connection.close begins."""


class FrameReader:
    """Stands between the socket's stream and aiormq, which reads from it frame by frame.

    ``heard`` changes whenever the broker sends anything. ``farewell`` is what it said when it closed the
    connection; during the handshake aiormq does not tell.
    """

    def __init__(self, stream: asyncio.StreamReader) -> None:
        self._stream = stream
        self.heard = 0
        self.farewell = ""

    def at_eof(self) -> bool:
        return self._stream.at_eof()

    async def readexactly(self, count: int) -> bytes:
        """The next bytes of a frame. aiormq reads its type, the rest of its head, and the payload at once."""
        data = await self._stream.readexactly(count)
        self.heard += 1
        self.note_farewell(data)
        return data

    def note_farewell(self, payload: bytes) -> None:
        """Keep the broker's words if this frame closes the connection."""
        if payload.startswith(_CLOSE_CONNECTION):
            self.farewell = payload[7 : 7 + int.from_bytes(payload[6:7], "big")].decode(errors="replace")


class Transport(TransportFactory):
    """Gives aiormq a connected socket, and keeps its writer so that a stuck connection can be aborted."""

    def __init__(self, broker: Broker, context: SSLContext | None, connected: socket.socket) -> None:
        self._broker = broker
        self._context = context
        self._socket: socket.socket | None = connected
        self.reader = self.read_from(asyncio.StreamReader())
        self.writer: asyncio.StreamWriter | None = None

    def read_from(self, stream: asyncio.StreamReader) -> FrameReader:
        """Return what aiormq gets in place of ``stream``."""
        return FrameReader(stream)

    async def create(self, url: URL, **_: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        connected, self._socket = self._socket, None
        stream, self.writer = await asyncio.open_connection(
            sock=connected, ssl=self._context, server_hostname=url.host if self._context else None
        )
        self.reader = self.read_from(stream)
        return cast("asyncio.StreamReader", self.reader), self.writer

    @asynccontextmanager
    async def opening(self) -> AsyncIterator[None]:
        """Bound the handshake in time; cut the connection if it fails.

        Raises:
            ConnectError: it failed; in the broker's own words, if it said any.
        """
        try:
            with broker_errors():
                async with asyncio.timeout(self._broker.seconds):
                    yield
        except LinkLostError as error:
            self.abort()
            raise self._broker.error(error.__cause__ or error, self.reader.farewell) from error
        except BaseException:
            self.abort()
            raise

    def abort(self) -> None:
        """Cut the connection, whatever is still to be sent."""
        if self._socket is not None:
            self._socket.close()
        if self.writer is not None:
            with suppress(
                AttributeError, RuntimeError
            ):  # Python 3.11.2: TLS was closed twice; uvloop: it is closed
                self.writer.transport.abort()
