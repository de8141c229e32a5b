"""The AMQP frames of the hot path: encoded, decoded, and read off the socket.

A delivery and its reply are eight frames, and pamqp would take most of a request's time for them. Everything
else on a connection goes through aiormq and pamqp. Tests compare each function here with pamqp.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import pamqp.encode

from session_client.net import transport
from session_worker.messages import headers
from session_worker.messages.errors import TooLongError
from session_worker.messages.message import Properties

if TYPE_CHECKING:
    from collections.abc import Mapping

METHOD, HEADER, BODY = 1, 2, 3
HEARTBEAT = b"\x08\x00\x00\x00\x00\x00\x00\xce"
OVERHEAD = 8
"""Bytes of a frame beside its payload: type, channel, size and end."""

BLOCKED = b"\x00\x0a\x00\x3c"
UNBLOCKED = b"\x00\x0a\x00\x3d"
PUBLISH = b"\x00\x3c\x00\x28"
RETURN = b"\x00\x3c\x00\x32"
DELIVER = b"\x00\x3c\x00\x3c"
ACK = b"\x00\x3c\x00\x50"
NACK = b"\x00\x3c\x00\x78"

READ_BYTES = 262_144

Taker = Callable[[int, bytes], bool]
"""Takes a frame, given its type and payload, or leaves it to aiormq. It must not raise."""

_END = b"\xce"
_FRAME = struct.Struct(">BHI")
_TAG_AND_BITS = struct.Struct(">QB")
_CONTENT = struct.Struct(">HHQH")
_LATEST_TIMESTAMP = 253_402_300_799
"""The last second of the year 9999."""


def frame_at(buffer: bytes, position: int) -> tuple[int, int, int] | None:
    """Return type, channel and end position of the frame that starts here, or None if it is incomplete."""
    if len(buffer) - position < _FRAME.size:
        return None
    kind, channel, size = _FRAME.unpack_from(buffer, position)
    end = position + size + OVERHEAD
    return None if end > len(buffer) else (kind, channel, end)


# ---------------------------------------------------------------------------------------- writing


def publish(
    channel: int, queue: str, properties: Properties, body: bytes, *, mandatory: bool, max_frame: int
) -> bytes:
    """Encode the frames that send a message to ``queue`` through the default exchange.

    Raises:
        TooLongError: the properties together do not fit into a frame.
        ValueError, TypeError: a property is too long, or of a kind that AMQP has no type for.
    """
    content = _content(properties, len(body))
    room = max_frame - OVERHEAD
    if len(content) > room:  # the broker would close the connection
        raise TooLongError(
            f"the message's properties take {len(content)} bytes; at most {room} fit into a frame",
            excess=len(content) - room,
        )
    parts = [_publish(channel, queue, mandatory), _FRAME.pack(HEADER, channel, len(content)), content, _END]
    for start in range(0, len(body), room):
        piece = body[start : start + room]
        parts += (_FRAME.pack(BODY, channel, len(piece)), piece, _END)
    return b"".join(parts)


def ack(channel: int, tag: int, *, multiple: bool) -> bytes:
    return _FRAME.pack(METHOD, channel, 13) + ACK + _TAG_AND_BITS.pack(tag, multiple) + _END


def requeue(channel: int, tag: int) -> bytes:
    """Encode a negative acknowledgement that puts the message back."""
    return _FRAME.pack(METHOD, channel, 13) + NACK + _TAG_AND_BITS.pack(tag, 2) + _END


@lru_cache(maxsize=4096)
def _publish(channel: int, queue: str, mandatory: bool) -> bytes:
    arguments = b"\0\0" + b"\0" + _short(queue) + bytes([mandatory])
    return _FRAME.pack(METHOD, channel, len(PUBLISH) + len(arguments)) + PUBLISH + arguments + _END


def _content(properties: Properties, body_size: int) -> bytes:
    flags = 0
    parts = [b""]
    if properties.content_type is not None:
        flags |= 1 << 15
        parts.append(_frequent(properties.content_type))
    if properties.headers:
        flags |= 1 << 13
        parts.append(_table(properties.headers))
    if properties.persistent:
        flags |= 1 << 12
        parts.append(b"\x02")
    if properties.correlation_id is not None:
        flags |= 1 << 10
        parts.append(_short(properties.correlation_id))
    if properties.reply_to is not None:
        flags |= 1 << 9
        parts.append(_frequent(properties.reply_to))
    if properties.message_id is not None:
        flags |= 1 << 7
        parts.append(_short(properties.message_id))
    if properties.timestamp is not None:
        flags |= 1 << 6
        parts.append(properties.timestamp.to_bytes(8, "big"))
    if properties.type is not None:
        flags |= 1 << 5
        parts.append(_frequent(properties.type))
    parts[0] = _CONTENT.pack(60, 0, body_size, flags)
    return b"".join(parts)


def _table(headers: Mapping[str, Any]) -> bytes:
    """Encode a table: by pamqp, unless it has a single text, as a traced reply has."""
    if len(headers) == 1:
        ((name, value),) = headers.items()
        if isinstance(value, str):
            text = value.encode()
            return _before_text(name, len(text)) + text
    return pamqp.encode.field_table(dict(headers))


@lru_cache(maxsize=1024)
def _before_text(name: str, size: int) -> bytes:
    """Encode a table that has a single text of ``size`` bytes, without that text."""
    before = _short(name) + b"S" + size.to_bytes(4, "big")
    return (len(before) + size).to_bytes(4, "big") + before


def _short(text: str) -> bytes:
    data = text.encode()
    if len(data) > 255:
        raise ValueError(f"a property takes {len(data)} bytes; at most 255 fit")
    return bytes([len(data)]) + data


_frequent = lru_cache(maxsize=1024)(_short)
"""For texts that many messages share."""


# ---------------------------------------------------------------------------------------- reading


def delivery(payload: bytes) -> tuple[int, bool]:
    """Return tag and redelivered flag of a ``basic.deliver``."""
    after_consumer = 5 + payload[4]
    tag, bits = _TAG_AND_BITS.unpack_from(payload, after_consumer)
    return tag, bool(bits & 1)


def confirmation(payload: bytes) -> tuple[int, bool]:
    """Return tag and multiple flag of a ``basic.ack`` or ``basic.nack``."""
    tag, bits = _TAG_AND_BITS.unpack_from(payload, 4)
    return tag, bool(bits & 1)


def reason(payload: bytes) -> str:
    """Return code and text of a ``basic.return``."""
    code, length = struct.unpack_from(">HB", payload, 4)
    return f"{code} {payload[7 : 7 + length].decode('utf-8', 'replace')}"


def body_size(payload: bytes) -> int:
    """Return how many bytes of body follow a content header."""
    return int.from_bytes(payload[4:12], "big")


def properties(payload: bytes) -> Properties:
    """Decode the properties in a content header. Never raises, whatever bytes a requester sent.

    A property that cannot be decoded is left out. ``illegible`` names the first of those that a decision
    needs.
    """
    found = Properties()
    flags = int.from_bytes(payload[12:14], "big")
    position = 14
    for bit, name, size_of, read in _PROPERTIES:
        if flags & bit:
            end = position + size_of(payload, position)
            if end > len(payload):
                found.illegible = found.illegible or name
                return found
            if read is not None:
                try:
                    setattr(found, name, read(payload, position, end))
                except ValueError:
                    if name in _DECISIVE:
                        found.illegible = found.illegible or name
            position = end
    if flags & 1:
        found.illegible = found.illegible or "flags"
    return found


def _size_of_text(payload: bytes, position: int) -> int:
    return 1 + int.from_bytes(payload[position : position + 1], "big")


def _size_of_table(payload: bytes, position: int) -> int:
    return 4 + int.from_bytes(payload[position : position + 4], "big")


def _text(payload: bytes, position: int, end: int) -> str:
    return payload[position + 1 : end].decode()


def _headers(payload: bytes, position: int, end: int) -> Mapping[str, Any]:
    return headers.read(payload, position + 4, end)


def _persistent(payload: bytes, position: int, _: int) -> bool:
    return payload[position] == 2


def _seconds(payload: bytes, position: int, end: int) -> int:
    seconds = int.from_bytes(payload[position:end], "big")
    if seconds > 0xFFFFFFFF:  # beyond the year 2106: milliseconds, more likely
        seconds //= 1000
    if seconds > _LATEST_TIMESTAMP:
        raise ValueError("a time beyond the year 9999")
    return seconds


_SizeOf = Callable[[bytes, int], int]
_Read = Callable[[bytes, int, int], Any]
_PROPERTIES: tuple[tuple[int, str, _SizeOf, _Read | None], ...] = (
    (1 << 15, "content_type", _size_of_text, _text),
    (1 << 14, "content_encoding", _size_of_text, _text),
    (1 << 13, "headers", _size_of_table, _headers),
    (1 << 12, "persistent", lambda _payload, _position: 1, _persistent),
    (1 << 11, "priority", lambda _payload, _position: 1, None),
    (1 << 10, "correlation_id", _size_of_text, _text),
    (1 << 9, "reply_to", _size_of_text, _text),
    (1 << 8, "expiration", _size_of_text, _text),
    (1 << 7, "message_id", _size_of_text, _text),
    (1 << 6, "timestamp", lambda _payload, _position: 8, _seconds),
    (1 << 5, "type", _size_of_text, _text),
    (1 << 4, "user_id", _size_of_text, None),
    (1 << 3, "app_id", _size_of_text, None),
    (1 << 2, "cluster_id", _size_of_text, None),
)
"""Flag, name, size and reader of each property, in the order in which they are sent. One without a reader is
skipped."""
_DECISIVE = frozenset(
    {"content_type", "content_encoding", "headers", "correlation_id", "reply_to", "expiration"}
)
"""Without one of these, a request might be answered in another way than its sender meant, or to another
address."""


# --------------------------------------------------------------------------- off the socket


class FrameReader(transport.FrameReader):
    """Stands between the socket's stream and aiormq, which reads from it frame by frame.

    It reads in large pieces, and offers each frame to the taker of its channel. What nobody takes is left to
    aiormq.
    """

    def __init__(self, stream: asyncio.StreamReader, takers: Mapping[int, Taker]) -> None:
        super().__init__(stream)
        self._takers = takers
        self._buffer = b""
        self._position = 0
        self._left = 0
        self._alive_at = 0.0

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
        """Go to the next frame that nobody takes; return its size in bytes."""
        fed = False
        while True:
            found = frame_at(self._buffer, self._position)
            if found is None:
                if fed and self._sign_of_life():
                    return len(HEARTBEAT)
                await self._fill()
                continue
            kind, number, end = found
            take = self._takers.get(number)
            payload = self._buffer[self._position + 7 : end - 1]
            if take is None or not take(kind, payload):
                self.note_farewell(payload)
                return end - self._position
            self._position = end
            fed = True

    def _sign_of_life(self) -> bool:
        """Let aiormq, which takes a connection without frames for dead, see a heartbeat now and then."""
        now = asyncio.get_running_loop().time()
        if now - self._alive_at < 1:
            return False
        self._alive_at = now
        self._buffer = HEARTBEAT + self._buffer[self._position :]
        self._position = 0
        return True

    async def _fill(self) -> None:
        data = await self._stream.read(READ_BYTES)
        if not data:
            raise asyncio.IncompleteReadError(self._buffer[self._position :], None)
        self.heard += 1
        self._buffer = self._buffer[self._position :] + data
        self._position = 0
