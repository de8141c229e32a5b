"""The ops port: ``/livez``, ``/readyz`` and ``/metrics`` by HTTP, from a thread of its own.

So it answers although the worker's event loop is stuck, and can say so.
"""

from __future__ import annotations

import asyncio
import errno
import json
import socket
import threading
from contextlib import contextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from session_worker.telemetry import metrics

if TYPE_CHECKING:
    from collections.abc import Iterator

    from session_worker.runtime.health import Board

REQUEST_SECONDS = 5.0
"""For a whole exchange, however slowly the other side sends or reads."""
REFRESH_SECONDS = 0.5
HEAD_BYTES = 8192
LEFT_BYTES = 1_048_576
"""How much of what a visitor sends beyond its request is read and thrown away."""
CONNECTIONS = 64
"""How many visitors there are at a time. One more takes the place of the one that has idled longest."""
JSON = "application/json"

Answer = tuple[HTTPStatus, str, bytes]


class OpsPortError(Exception):
    """The ops port cannot be opened; the message says why and what to do."""


@contextmanager
def serving(host: str, port: int, board: Board) -> Iterator[None]:
    """Answer from ``board`` while the body runs; no port is opened if ``port`` is 0.

    Raises:
        OpsPortError: the address cannot be had.
    """
    if port == 0:
        yield
        return
    server = _Server(listen(host, port), board)
    try:
        yield
    finally:
        server.close()


def listen(host: str, port: int) -> list[socket.socket]:
    """Listen at each address of ``host``; ``::`` stands for all of IPv4 as well.

    Raises OpsPortError like ``serving``.
    """
    listeners: list[socket.socket] = []
    failure: Exception | None = None
    try:
        for family, _, _, _, address in set(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)):
            try:
                listeners.append(_listen(family, address))
            except OSError as error:
                failure = failure if _is_fatal(failure) else error
    except (OSError, UnicodeError) as error:
        failure = error
    if failure is not None and (_is_fatal(failure) or not listeners):
        for listener in listeners:
            listener.close()
        raise OpsPortError(_why_not(host, port, failure)) from failure
    return listeners


def _listen(family: int, address: tuple[Any, ...]) -> socket.socket:
    both = address[0] == "::" and socket.has_dualstack_ipv6()
    return socket.create_server(address, family=family, dualstack_ipv6=both)


def _is_fatal(error: Exception | None) -> bool:
    """Whether to give up although another address of the name can be listened at. An address that this
    machine lacks is no reason (``::1`` of ``localhost``)."""
    return getattr(error, "errno", None) in {errno.EADDRINUSE, errno.EACCES}


def _why_not(host: str, port: int, error: Exception) -> str:
    name = "port"
    match getattr(error, "errno", None):
        case errno.EADDRINUSE:
            what = f"port {port} of {host} is taken by another program; choose another one, or 0 for none"
        case errno.EACCES:
            what = f"this user may not open port {port}; choose one above 1023"
        case _:
            name, what = "host", f"{host} is no address of this machine; 127.0.0.1 and 0.0.0.0 always are"
    return f"ops_{name}: {what}. It is set by --ops-{name} or SESSION_WORKER_OPS_{name.upper()}."


class _Server:
    def __init__(self, listeners: list[socket.socket], board: Board) -> None:
        self._listeners = listeners
        self._board = board
        self._idle: dict[asyncio.StreamWriter, None] = {}
        self._busy: dict[asyncio.StreamWriter, None] = {}
        self._loop = asyncio.new_event_loop()
        self._closing = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="ops port", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._closing.set)
        self._thread.join(REFRESH_SECONDS)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        servers = [
            await asyncio.start_server(self._on_connection, sock=listener, limit=HEAD_BYTES)
            for listener in self._listeners
        ]
        await self._closing.wait()
        for server in servers:
            server.close()

    async def _on_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._idle) + len(self._busy) >= CONNECTIONS:
            self._turn_out()
        self._idle[writer] = None
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                await self._exchange(reader, writer)
                await self._see_off(reader, writer)
        except (OSError, EOFError, TimeoutError, asyncio.CancelledError):  # the last: the port closes
            writer.transport.abort()
        finally:
            self._forget(writer)
            writer.close()

    def _turn_out(self) -> None:
        """Disconnect the oldest visitor, preferably one that is not being answered."""
        oldest = next(iter(self._idle or self._busy))
        self._forget(oldest)
        oldest.transport.abort()

    def _forget(self, writer: asyncio.StreamWriter) -> None:
        self._idle.pop(writer, None)
        self._busy.pop(writer, None)

    async def _see_off(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Read on until the other side closes: with data unread, closing would reset the connection, and the
        answer could be lost."""
        self._forget(writer)
        self._idle[writer] = None
        writer.write_eof()
        left = LEFT_BYTES
        while left > 0 and (part := await reader.read(HEAD_BYTES)):
            left -= len(part)

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            head = b""
        self._forget(writer)
        self._busy[writer] = None
        method, _, rest = head.partition(b"\r\n")[0].partition(b" ")
        target, _, version = rest.partition(b" ")
        status, kind, body = HTTPStatus.BAD_REQUEST, JSON, _json({"error": "no HTTP request"})
        if version.startswith(b"HTTP/1."):
            status, kind, body = await self._answer(method, target.partition(b"?")[0])
        lines = [
            f"HTTP/1.1 {status.value} {status.phrase}",
            f"Content-Type: {kind}",
            f"Content-Length: {len(body)}",
            "Cache-Control: no-store",
            "Connection: close",
            *(["Allow: GET, HEAD"] if status is HTTPStatus.METHOD_NOT_ALLOWED else []),
        ]
        writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + (b"" if method == b"HEAD" else body))
        await writer.drain()

    async def _answer(self, method: bytes, path: bytes) -> Answer:
        if method not in (b"GET", b"HEAD"):
            return HTTPStatus.METHOD_NOT_ALLOWED, JSON, _json({"error": "GET and HEAD only"})
        if path not in (b"/livez", b"/readyz", b"/metrics"):
            return HTTPStatus.NOT_FOUND, JSON, _json({"error": "there are /livez, /readyz and /metrics"})
        await self._board.refresh(REFRESH_SECONDS)
        if path == b"/metrics":
            return HTTPStatus.OK, metrics.CONTENT_TYPE, self._board.metrics()
        well, found = self._board.live() if path == b"/livez" else self._board.ready()
        return HTTPStatus.OK if well else HTTPStatus.SERVICE_UNAVAILABLE, JSON, _json(found)


def _json(found: dict[str, object]) -> bytes:
    return json.dumps(found, ensure_ascii=False).encode() + b"\n"
