"""The socket to the broker, and what passes by on it that aiormq does not tell."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, cast

from aiormq.connection import TCPTransportFactory, TLSTransportFactory, TransportFactory

from contracts.trouble import refusal, tls_hang_up, tls_trouble, unreachable

if TYPE_CHECKING:
    from aiormq import Connection
    from yarl import URL

_CLOSE_CONNECTION = b"\x00\x0a\x00\x32"


class Transport(TransportFactory):
    """Plain TCP or TLS; aiormq reads from it.

    ``writer`` is kept because closing a connection to a silent peer needs its abort(). ``heard`` changes
    whenever the broker sends anything.
    """

    def __init__(self) -> None:
        self.writer: asyncio.StreamWriter | None = None
        self.heard = 0
        self._stream = asyncio.StreamReader()
        self._farewell = ""

    async def create(self, url: URL, **kwargs: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        factory = TLSTransportFactory() if url.scheme == "amqps" else TCPTransportFactory()
        self._stream, self.writer = await factory.create(url, **kwargs)
        return cast("asyncio.StreamReader", self), self.writer

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
