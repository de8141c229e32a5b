"""AMQP for the load generator: blocking sockets, frames made ahead of time, replies picked out of the bytes.

A library would cost the generator as much for each message as the contestants pay, on the same two cores.
This costs about ten microseconds; what it used is part of every result.
"""

from __future__ import annotations

import socket
import struct
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import unquote, urlsplit

from pamqp import body, commands, frame, header

if TYPE_CHECKING:
    from collections.abc import Sequence

CONNECT_SECONDS: Final = 10.0
CALL_SECONDS: Final = 30.0
_CHANNEL: Final = 1
_METHOD, _HEADER, _BODY = 1, 2, 3
_FRAME_START = struct.Struct(">BHI")
_METHOD_START = struct.Struct(">I")
_DELIVER: Final = 0x003C003C
_ACK: Final = 0x003C0050
_ACK_FIELDS = struct.Struct(">QB")
_BODY_SIZE = struct.Struct(">Q")


class WireError(Exception):
    """The broker closed the connection, or did not answer."""


@dataclass(frozen=True, slots=True)
class Message:
    """What to publish."""

    routing_key: str
    properties: commands.Basic.Properties
    body: bytes
    exchange: str = ""

    def frames(self) -> bytes:
        """All of it as it goes over the wire."""
        publish = commands.Basic.Publish(exchange=self.exchange, routing_key=self.routing_key)
        parts = [
            frame.marshal(publish, _CHANNEL),
            frame.marshal(header.ContentHeader(0, len(self.body), self.properties), _CHANNEL),
            frame.marshal(body.ContentBody(self.body), _CHANNEL),
        ]
        return b"".join(parts)


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back, and when (seconds of ``time.perf_counter``)."""

    correlation_id: str
    body: bytes
    at: float


class Connection:
    """One connection with one channel.

    Raises:
        OSError: nobody listens.
        WireError: the broker refused it.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        assert parts.port is not None
        self._unread = b""
        self._socket = socket.create_connection((parts.hostname, parts.port), CONNECT_SECONDS)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._channel = 0
        self.send(header.ProtocolHeader(0, 9, 1).marshal())
        self._answer(CALL_SECONDS)
        login = f"\0{unquote(parts.username or '')}\0{unquote(parts.password or '')}"
        tune = self.call(commands.Connection.StartOk({}, "PLAIN", login, "en_US"))
        assert isinstance(tune, commands.Connection.Tune)
        self._say(commands.Connection.TuneOk(tune.channel_max, tune.frame_max, 0))
        self.call(commands.Connection.Open(unquote(parts.path[1:])))
        self._channel = _CHANNEL
        self.call(commands.Channel.Open())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._socket.close()

    def call(self, method: Any, timeout: float = CALL_SECONDS) -> Any:
        """Send a method and return the broker's answer."""
        self._say(method)
        return self._answer(timeout)

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def frames(self, timeout: float) -> list[tuple[int, bytes]]:
        """Kind and payload of what one read brings: none, perhaps, when it ends inside a frame.

        Raises:
            WireError: nothing came within `timeout` seconds, or the connection is closed.
        """
        self._socket.settimeout(max(timeout, 0.001))
        try:
            data = self._unread + self._socket.recv(1 << 18)
        except TimeoutError:
            raise WireError(f"nothing came from the broker for {timeout:.1f} s") from None
        if len(data) == len(self._unread):
            raise WireError("the broker closed the connection")
        position = 0
        found = []
        while len(data) - position >= _FRAME_START.size:
            kind, _, size = _FRAME_START.unpack_from(data, position)
            end = position + _FRAME_START.size + size
            if end >= len(data):
                break
            payload = data[position + _FRAME_START.size : end]
            position = end + 1
            found.append((kind, payload))
        self._unread = data[position:]
        return found

    def _say(self, method: Any) -> None:
        self.send(frame.marshal(method, self._channel))

    def _answer(self, timeout: float) -> Any:
        end = time.monotonic() + timeout
        while True:
            for kind, payload in self.frames(end - time.monotonic()):
                answer = method_of(kind, payload)
                if isinstance(answer, commands.Connection.Close | commands.Channel.Close):
                    raise WireError(f"the broker says: {answer.reply_code} {answer.reply_text}")
                return answer


def method_of(kind: int, payload: bytes) -> Any:
    """The method in a frame's payload."""
    data = _FRAME_START.pack(kind, _CHANNEL, len(payload)) + payload + b"\xce"
    return frame.unmarshal(data)[2]


class ReplyQueue(Connection):
    """A durable queue, and its consumer (without acknowledgements)."""

    def __init__(self, url: str, name: str, arguments: dict[str, Any]) -> None:
        super().__init__(url)
        self.call(commands.Queue.Declare(queue=name, durable=True, arguments=arguments))
        self.call(commands.Basic.Consume(queue=name, no_ack=True))
        self._header = b""
        self._body = b""
        self._missing = 0

    def read(self, timeout: float) -> list[Reply]:
        """The replies that are complete after one read: none, perhaps.

        Raises:
            WireError: nothing came within `timeout` seconds, or the connection is closed.
        """
        replies = []
        for kind, payload in self.frames(timeout):
            if kind == _BODY:
                self._body += payload
                self._missing -= len(payload)
            elif kind == _HEADER:
                self._header, self._body = payload, b""
                (self._missing,) = _BODY_SIZE.unpack_from(payload, 4)
            elif _METHOD_START.unpack_from(payload)[0] == _DELIVER:
                continue
            else:
                raise WireError(f"the broker says: {method_of(kind, payload)}")
            if not self._missing:
                replies.append(Reply(_correlation_id(self._header), self._body, time.perf_counter()))
        return replies


def publish_confirmed(url: str, messages: Sequence[bytes], window: int = 500) -> None:
    """Publish messages (as ``Message.frames``) and wait until the broker has confirmed them all.

    Raises:
        WireError: it refused one.
    """
    with Connection(url) as connection:
        connection.call(commands.Confirm.Select())
        for start in range(0, len(messages), window):
            part = messages[start : start + window]
            connection.send(b"".join(part))
            unconfirmed = set(range(start + 1, start + len(part) + 1))
            while unconfirmed:
                for kind, payload in connection.frames(CALL_SECONDS):
                    if kind != _METHOD or _METHOD_START.unpack_from(payload)[0] != _ACK:
                        raise WireError(f"the broker says: {method_of(kind, payload)}")
                    tag, multiple = _ACK_FIELDS.unpack_from(payload, 4)
                    if multiple:
                        unconfirmed = {other for other in unconfirmed if other > tag}
                    else:
                        unconfirmed.discard(tag)


def consumers(url: str, queue: str) -> int:
    """How many consume from a queue; 0 when there is no such queue."""
    with Connection(url) as connection:
        try:
            answer = connection.call(commands.Queue.Declare(queue=queue, passive=True))
        except WireError:
            return 0
        return int(answer.consumer_count)


def _correlation_id(payload: bytes) -> str:
    """The correlation id in a content header: it is the sixth property, after those that are present."""
    (flags,) = struct.unpack_from(">H", payload, 12)
    position = 14
    for bit in (0x8000, 0x4000):  # content type, content encoding
        if flags & bit:
            position += 1 + payload[position]
    if flags & 0x2000:  # headers
        position += 4 + _METHOD_START.unpack_from(payload, position)[0]
    position += bool(flags & 0x1000) + bool(flags & 0x0800)  # delivery mode, priority
    if not flags & 0x0400:
        return ""
    return payload[position + 1 : position + 1 + payload[position]].decode()
