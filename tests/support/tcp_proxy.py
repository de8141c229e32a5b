"""A TCP proxy in the test's own event loop that breaks connections in the ways that networks do."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import defaultdict
from typing import TYPE_CHECKING, Final, Literal, Self
from urllib.parse import urlsplit

from session_client.net.urls import AMQP_PORT

if TYPE_CHECKING:
    from collections.abc import Iterable

Mode = Literal["pass", "stall", "stall-up", "stall-down", "slow"]
INTRODUCTION: Final = 1024
"""Bytes within which a client says its name."""
_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)


class TcpProxy:
    """Passes what clients send to the server of `url` and back.

    `mode` counts for connections that exist and for new ones:

    - `pass`: everything goes through;
    - `stall`: the connections stay, nothing goes through; `stall-up`: only nothing towards the server,
      `stall-down`: only nothing towards the client (half-open);
    - `slow`: `bytes_per_second` each way.

    `cut` ends the connections in good order (FIN), `reset` by force (RST), and `swallow` lets them stay but
    nothing through; `silence` does that to some for good. `refuse` is for new ones.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._parts = parts
        self._target = (parts.hostname or "127.0.0.1", parts.port or AMQP_PORT)
        self._pipes: set[_Pipe] = set()
        self._swallowing: set[asyncio.StreamWriter] = set()
        self._silent: set[asyncio.StreamWriter] = set()
        self._introductions: defaultdict[asyncio.StreamWriter, bytes] = defaultdict(bytes)
        self._serving: set[asyncio.Task[None]] = set()
        self._flowing = {"up": asyncio.Event(), "down": asyncio.Event()}
        self._server: asyncio.Server | None = None
        self.port = 0
        self.bytes_per_second = 1024
        self.accepted = 0
        self.refused = 0
        self.mode = "pass"

    @property
    def mode(self) -> Mode:
        return self._mode

    @mode.setter
    def mode(self, mode: Mode) -> None:
        self._mode = mode
        for direction, flowing in self._flowing.items():
            if mode in {"stall", f"stall-{direction}"}:
                flowing.clear()
            else:
                flowing.set()

    @property
    def url(self) -> str:
        """The server's URL, by way of this proxy."""
        login, at, _ = self._parts.netloc.rpartition("@")
        return self._parts._replace(netloc=f"{login}{at}127.0.0.1:{self.port}").geturl()

    @property
    def connections(self) -> int:
        """How many are open now."""
        return len(self._pipes)

    async def __aenter__(self) -> Self:
        await self.accept()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.refuse()
        await asyncio.sleep(0)  # who came at the last moment is served by now
        self.reset()
        serving = tuple(self._serving)
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)
        await asyncio.sleep(0)  # what was aborted is closed by now

    async def accept(self) -> None:
        """Take new connections, on the same port as before."""
        if self._server is None:
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
            self.port = self._server.sockets[0].getsockname()[1]

    async def refuse(self) -> None:
        """Take no new connections; those that exist stay."""
        if self._server is not None:
            self._server.close()
            self._server = None

    def cut(self) -> None:
        """Close every connection as a peer does that has finished."""
        for pipe in tuple(self._pipes):
            pipe.close()

    def reset(self) -> None:
        """Break every connection as a peer does that has crashed."""
        for pipe in tuple(self._pipes):
            pipe.reset()

    def swallow(self) -> None:
        """Lose all that is sent on the connections that exist; new ones work as the mode says."""
        for pipe in self._pipes:
            self._swallowing.update(pipe.writers)

    def silence(self, name: str) -> int:
        """Swallow the connections whose client gave this name, and say how many those are. Neither end learns
        that the other one closed."""
        named = [pipe for pipe in self._pipes if name.encode() in self._introductions[pipe.writers[1]]]
        for pipe in named:
            self._swallowing.update(pipe.writers)
            self._silent.update(pipe.writers)
        return len(named)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        self.accepted += 1
        try:
            their_reader, their_writer = await asyncio.open_connection(*self._target)
        except (OSError, asyncio.CancelledError):  # cancelled: the test is over
            self.refused += 1
            writer.transport.abort()
            self._serving.discard(task)
            return
        pipe = _Pipe(writer, their_writer)
        self._pipes.add(pipe)
        copies = [
            asyncio.create_task(self._copy(reader, their_writer, "up"), name="proxy up"),
            asyncio.create_task(self._copy(their_reader, writer, "down"), name="proxy down"),
        ]
        try:
            await asyncio.wait(copies, return_when=asyncio.FIRST_COMPLETED)
            if writer in self._silent:
                await asyncio.Event().wait()
        finally:
            await _end(copies)
            pipe.close()
            self._pipes.discard(pipe)
            self._serving.discard(task)

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: str) -> None:
        while block := await reader.read(65_536):
            if len(self._introductions[writer]) < INTRODUCTION:
                self._introductions[writer] += block
            await self._flowing[way].wait()
            if writer in self._swallowing:
                continue
            if self._mode == "slow":
                await self._drip(writer, block)
            else:
                writer.write(block)
                await writer.drain()

    async def _drip(self, writer: asyncio.StreamWriter, block: bytes) -> None:
        step = max(1, self.bytes_per_second // 20)
        for start in range(0, len(block), step):
            writer.write(block[start : start + step])
            await writer.drain()
            await asyncio.sleep(0.05)


class _Pipe:
    """The two sockets of one connection."""

    def __init__(self, *writers: asyncio.StreamWriter) -> None:
        self.writers = writers

    def close(self) -> None:
        for writer in self.writers:
            writer.close()

    def reset(self) -> None:
        for writer in self.writers:
            raw: socket.socket = writer.get_extra_info("socket")
            if raw.fileno() != -1:
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            writer.transport.abort()


async def _end(tasks: Iterable[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
