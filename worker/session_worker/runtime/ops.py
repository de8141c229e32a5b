"""The ops port: ``/livez``, ``/readyz`` and ``/metrics`` by HTTP.

It has threads of its own, so that it answers, and says so, when the worker's event loop is stuck.
"""

from __future__ import annotations

import errno
import io
import json
import socket
import sys
import threading
import time
from contextlib import contextmanager, suppress
from http import HTTPStatus
from http.client import HTTPException
from http.server import BaseHTTPRequestHandler
from socketserver import ThreadingTCPServer
from typing import TYPE_CHECKING, Any

from session_client.net.diagnosis import DiagnosedError, Diagnosis
from session_worker.telemetry import metrics
from session_worker.telemetry.log import say

if TYPE_CHECKING:
    from collections.abc import Iterator

    from session_worker.runtime.health import Board

REQUEST_SECONDS = 5.0
"""How long a visitor may stay, however slowly it sends or reads."""
REFRESH_SECONDS = 0.5
"""How long an answer waits for a new report of each process."""
HEAD_BYTES = 131_072
"""How large a request may be: twice the line at which the standard library gives up."""
LEFT_BYTES = 1_048_576
"""How much of what a visitor sends beyond its request is read and thrown away."""
CONNECTIONS = 64
"""How many visitors an address has at a time. One more takes the place of the one that has idled longest."""
JSON = "application/json"


class OpsPortError(DiagnosedError):
    """The ops port cannot be opened."""


@contextmanager
def serving(host: str, port: int, board: Board) -> Iterator[None]:
    """Answer from ``board`` while the body runs; no port is opened if ``port`` is 0.

    Raises:
        OpsPortError: the address cannot be had.
    """
    servers = [_Server(listener, board) for listener in listen(host, port)] if port else []
    for server in servers:
        threading.Thread(target=server.serve_forever, name="ops port", daemon=True).start()
    try:
        yield
    finally:
        for server in servers:
            server.close()


def listen(host: str, port: int) -> list[socket.socket]:
    """Listen at each address of ``host``, where ``::`` stands for all of IPv4 as well.

    Raises:
        OpsPortError: the address cannot be had.
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
    """Whether to give up although another address of the name is free. That this machine lacks an address is
    no reason (``::1`` of ``localhost``)."""
    return getattr(error, "errno", None) in {errno.EADDRINUSE, errno.EACCES}


def _why_not(host: str, port: int, error: Exception) -> Diagnosis:
    name = "port"
    match getattr(error, "errno", None):
        case errno.EADDRINUSE:
            what, fix = (
                f"port {port} of {host} is taken by another program",
                "choose another one, or 0 for none",
            )
        case errno.EACCES:
            what, fix = f"this user may not open port {port}", "choose one above 1023"
        case _:
            name, what, fix = "host", f"{host} is no address of this machine", "choose 127.0.0.1 or 0.0.0.0"
    return Diagnosis(f"ops_{name}: {what}", f"{fix} (--ops-{name} or SESSION_WORKER_OPS_{name.upper()})")


class _Server(ThreadingTCPServer):
    """Serves one address: a thread that accepts, and one for each visitor, ``CONNECTIONS`` at the most."""

    daemon_threads = True

    def __init__(self, listener: socket.socket, board: Board) -> None:
        super().__init__(listener.getsockname(), _Visit, bind_and_activate=False)
        self.socket.close()
        self.socket = listener
        self.board = board
        self.asking: set[Any] = set()
        """The visitors that are being answered."""
        self._deadlines: dict[Any, float] = {}
        self._changed = threading.Condition()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Make room for a visitor, then serve it in a thread of its own."""
        with self._changed:
            if len(self._deadlines) >= CONNECTIONS:
                idle = (visitor for visitor in self._deadlines if visitor not in self.asking)
                _hang_up(next(idle, next(iter(self._deadlines))))
                self._changed.wait_for(lambda: len(self._deadlines) < CONNECTIONS)
            self._deadlines[request] = time.monotonic() + REQUEST_SECONDS
        super().process_request(request, client_address)

    def service_actions(self) -> None:
        """Hang up on those whose time is over; called twice a second."""
        with self._changed:
            for visitor, deadline in self._deadlines.items():
                if deadline < time.monotonic():
                    _hang_up(visitor)

    def shutdown_request(self, request: Any) -> None:
        super().shutdown_request(request)
        with self._changed:
            self._deadlines.pop(request, None)
            self._changed.notify()

    def handle_error(self, *_: object) -> None:
        """Tell of defects; that a visitor goes away is none."""
        error = sys.exception()
        if not isinstance(error, OSError):
            say("error", "unexpected", what="the ops port failed", exc_info=error)

    def close(self) -> None:
        _hang_up(self.socket)  # wakes the accepting thread
        self.shutdown()
        self.server_close()
        with self._changed:
            for visitor in self._deadlines:
                _hang_up(visitor)


def _hang_up(connection: socket.socket) -> None:
    """End a connection that another thread reads or writes, which sees it then and closes it."""
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


class _Head(io.BufferedReader):
    """What a visitor sends, as far as it can be a request."""

    _left = HEAD_BYTES

    def readline(self, size: int | None = -1, /) -> bytes:
        line = super().readline(size)
        self._left -= len(line)
        if self._left < 0:
            raise HTTPException(f"more than {HEAD_BYTES} bytes")
        return line


class _Visit(BaseHTTPRequestHandler):
    """One request and its answer, by the standard library."""

    server: _Server
    protocol_version = default_request_version = "HTTP/1.1"
    rbufsize, wbufsize = 0, -1

    def setup(self) -> None:
        super().setup()
        self.rfile = _Head(self.rfile)

    def do_GET(self) -> None:
        self.server.asking.add(self.connection)
        path, board = self.path.partition("?")[0], self.server.board
        if path not in ("/livez", "/readyz", "/metrics"):
            self.send_error(HTTPStatus.NOT_FOUND, "there are /livez, /readyz and /metrics")
            return
        board.refresh(REFRESH_SECONDS)
        if path == "/metrics":
            self._send(HTTPStatus.OK, metrics.CONTENT_TYPE, board.metrics())
            return
        well, found = board.live() if path == "/livez" else board.ready()
        self._send(HTTPStatus.OK if well else HTTPStatus.SERVICE_UNAVAILABLE, JSON, _json(found))

    do_HEAD = do_GET  # noqa: N815 - the standard library's name

    def send_error(self, code: int, message: str | None = None, *_: object) -> None:
        """Send an error as JSON. The standard library sends 501 for a method that has no ``do_…`` here."""
        status = HTTPStatus(code)
        if status is HTTPStatus.NOT_IMPLEMENTED:
            status, message = HTTPStatus.METHOD_NOT_ALLOWED, "GET and HEAD only"
        self._send(status, JSON, _json({"error": message or status.phrase}))

    def _send(self, status: HTTPStatus, kind: str, body: bytes) -> None:
        self.send_response_only(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("Connection", "close")
        if status is HTTPStatus.METHOD_NOT_ALLOWED:
            self.send_header("Allow", "GET, HEAD")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def finish(self) -> None:
        """Read on until the other side closes: closing with data unread would reset the connection, and the
        answer could be lost."""
        super().finish()
        self.server.asking.discard(self.connection)
        self.connection.shutdown(socket.SHUT_WR)
        left = LEFT_BYTES
        while left > 0 and (part := self.connection.recv(8192)):
            left -= len(part)

    def log_message(self, *_: object) -> None:
        """Log no requests."""


def _json(found: dict[str, object]) -> bytes:
    return json.dumps(found, ensure_ascii=False).encode() + b"\n"
