"""Under a connection: its socket, and what is taken off it before aiormq sees it."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast

import aiormq
import aiormq.connection

from session_worker.broker import frames

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable
    from ssl import SSLContext

    from yarl import URL

    from session_worker.broker.connection import Wire

READ_BYTES = 262_144

# These loggers print whole messages, bodies included. What matters of them is in our own errors.
logging.getLogger("aiormq").setLevel(logging.CRITICAL)
logging.getLogger("aio_pika").setLevel(logging.CRITICAL)


class RawChannel(aiormq.Channel):
    """A channel that takes frames as they come off the socket, ahead of aiormq's queues and tasks."""

    wire: Wire

    def feed(self, kind: int, payload: bytes) -> bool:
        """Take a frame, or leave it to aiormq. Must not raise: the connection's reader calls it."""
        raise NotImplementedError


class FrameReader:
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


class Transport(aiormq.connection.TransportFactory):
    """Gives aiormq a connected socket, and keeps its writer so that a stuck connection can be aborted."""

    def __init__(self, connected: socket.socket, context: SSLContext | None) -> None:
        self._socket: socket.socket | None = connected
        self._context = context
        self.reader: FrameReader | None = None
        self.writer: asyncio.StreamWriter | None = None
        self.channels: dict[int, RawChannel] = {}

    async def create(self, url: URL, **_kwargs: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        connected, self._socket = self._socket, None
        stream, self.writer = await asyncio.open_connection(
            sock=connected, ssl=self._context, server_hostname=url.host if self._context else None
        )
        self.reader = FrameReader(stream, self.channels)
        return cast("asyncio.StreamReader", self.reader), self.writer

    def abort(self) -> None:
        """Cut the connection, whatever is still to be sent."""
        if self._socket is not None:
            self._socket.close()
        if self.writer is not None:
            with suppress(Exception):
                self.writer.transport.abort()


class Connection(aiormq.Connection):
    on_blocked: Callable[[bool], None]

    # aiormq calls these two by their private names and offers no other way to learn of an alarm.
    async def _Connection__handle_connection_blocked(self, frame: Any) -> None:  # noqa: N802
        await super()._Connection__handle_connection_blocked(frame)  # type: ignore[misc]
        self.on_blocked(True)

    async def _Connection__handle_connection_unblocked(self, frame: Any) -> None:  # noqa: N802
        await super()._Connection__handle_connection_unblocked(frame)  # type: ignore[misc]
        self.on_blocked(False)
