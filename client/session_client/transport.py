"""The socket to the broker, and what passes by on it that aiormq does not tell."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast

from aiormq.connection import TransportFactory

from session_client.net.trouble import refusal, tls_hang_up, tls_trouble, unreachable

if TYPE_CHECKING:
    import socket
    from ssl import SSLContext

    from aiormq import Connection
    from yarl import URL

_CLOSE_CONNECTION = b"\x00\x0a\x00\x32"


class Transport(TransportFactory):
    """A connected socket, plain or with TLS; aiormq reads from it.

    ``writer`` is kept because closing a connection to a silent peer needs its abort(). ``heard`` changes
    whenever the broker sends anything.
    """

    def __init__(self, connected: socket.socket, context: SSLContext | None) -> None:
        self._socket: socket.socket | None = connected
        self._context = context
        self.writer: asyncio.StreamWriter | None = None
        self.heard = 0
        self._stream = asyncio.StreamReader()
        self._farewell = ""

    async def create(self, url: URL, **_: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        connected, self._socket = self._socket, None
        self._stream, self.writer = await asyncio.open_connection(
            sock=connected, ssl=self._context, server_hostname=url.host if self._context else None
        )
        return cast("asyncio.StreamReader", self), self.writer

    def abort(self) -> None:
        """Cut the connection, whatever is still to be sent."""
        if self._socket is not None:
            self._socket.close()
        if self.writer is not None:
            with suppress(AttributeError):  # of Python 3.11.2, where TLS was closed twice already
                self.writer.transport.abort()

    def at_eof(self) -> bool:
        return self._stream.at_eof()

    async def readexactly(self, count: int) -> bytes:
        """Of each frame aiormq reads the type, the rest of the head, and the payload in one piece."""
        data = await self._stream.readexactly(count)
        self.heard += 1
        if data.startswith(_CLOSE_CONNECTION):
            self._farewell = data[7 : 7 + int.from_bytes(data[6:7], "big")].decode(errors="replace")
        return data

    def trouble(self, error: BaseException, connection: Connection) -> str:
        """Why ``connection`` was not opened: in the broker's own words, if it said any."""
        url, broker = connection.url, "this broker"
        if self._farewell:
            user = url.user or "guest"
            return refusal(self._farewell, broker, user=user, vhost=connection.vhost).sentence
        said = None
        if url.scheme == "amqps":
            said = tls_trouble(error, broker, "cafile") or tls_hang_up(error, broker)
        return said or unreachable(error, broker)
