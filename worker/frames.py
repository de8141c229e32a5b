"""The AMQP frames of the hot path, written and read without a general library's generality.

A delivery and its reply are eight frames; pamqp would take most of a request's time for them. Everything else
on a connection goes by aiormq and pamqp as usual. Tests hold each function here against pamqp.
"""

from __future__ import annotations

import struct
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import pamqp.decode
import pamqp.encode

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

METHOD, HEADER, BODY = 1, 2, 3
HEARTBEAT = b"\x08\x00\x00\x00\x00\x00\x00\xce"
OVERHEAD = 8
"""Bytes of a frame beside its payload: type, channel, size and end."""

CLOSE_CONNECTION = b"\x00\x0a\x00\x32"
PUBLISH = b"\x00\x3c\x00\x28"
RETURN = b"\x00\x3c\x00\x32"
DELIVER = b"\x00\x3c\x00\x3c"
ACK = b"\x00\x3c\x00\x50"
NACK = b"\x00\x3c\x00\x78"

_END = b"\xce"
_FRAME = struct.Struct(">BHI")
_TAG_AND_BITS = struct.Struct(">QB")
_CONTENT = struct.Struct(">HHQH")
_LATEST_TIMESTAMP = 253_402_300_799
"""The last second of the year 9999."""


@dataclass(slots=True)
class Properties:
    """The properties of a message that matter to us. ``timestamp`` in seconds since 1970."""

    content_type: str | None = None
    content_encoding: str | None = None
    headers: Mapping[str, Any] | None = None
    persistent: bool = False
    correlation_id: str | None = None
    reply_to: str | None = None
    expiration: str | None = None
    message_id: str | None = None
    timestamp: int | None = None
    type: str | None = None


def frame_at(buffer: bytes, position: int) -> tuple[int, int, int] | None:
    """Type, channel and end position of the frame that starts here; None when it is not all there."""
    if len(buffer) - position < _FRAME.size:
        return None
    kind, channel, size = _FRAME.unpack_from(buffer, position)
    end = position + size + OVERHEAD
    return None if end > len(buffer) else (kind, channel, end)


# ---------------------------------------------------------------------------------------- writing


def publish(
    channel: int, queue: str, properties: Properties, body: bytes, *, mandatory: bool, max_frame: int
) -> bytes:
    """The frames that send a message to ``queue`` by the default exchange.

    Raises:
        ValueError, TypeError: a property is too long, or of a kind that AMQP has no type for.
    """
    content = _content(properties, len(body))
    room = max_frame - OVERHEAD
    if len(content) > room:  # the one frame that cannot be split: the broker would close the connection
        raise ValueError(f"the properties take {len(content)} bytes; at most {room} fit into a frame")
    parts = [_publish(channel, queue, mandatory), _FRAME.pack(HEADER, channel, len(content)), content, _END]
    for start in range(0, len(body), room):
        piece = body[start : start + room]
        parts += (_FRAME.pack(BODY, channel, len(piece)), piece, _END)
    return b"".join(parts)


def ack(channel: int, tag: int, *, multiple: bool) -> bytes:
    return _FRAME.pack(METHOD, channel, 13) + ACK + _TAG_AND_BITS.pack(tag, multiple) + _END


def requeue(channel: int, tag: int) -> bytes:
    """A negative acknowledgement that puts the message back."""
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
    """A traced answer has one header, a text; other tables are rare enough to be pamqp's."""
    if len(headers) == 1:
        ((name, value),) = headers.items()
        if isinstance(value, str):
            text = value.encode()
            return _before_text(name, len(text)) + text
    return pamqp.encode.field_table(dict(headers))


@lru_cache(maxsize=1024)
def _before_text(name: str, size: int) -> bytes:
    """A table up to the one text, of ``size`` bytes, that is in it."""
    before = _short(name) + b"S" + size.to_bytes(4, "big")
    return (len(before) + size).to_bytes(4, "big") + before


def _short(text: str) -> bytes:
    data = text.encode()
    if len(data) > 255:
        raise ValueError(f"a property takes {len(data)} bytes; at most 255 fit")
    return bytes([len(data)]) + data


_frequent = lru_cache(maxsize=1024)(_short)
"""For a text that many messages have."""


# ---------------------------------------------------------------------------------------- reading


def delivery(payload: bytes) -> tuple[int, bool]:
    """Tag and redelivered flag of a ``basic.deliver``."""
    after_consumer = 5 + payload[4]
    tag, bits = _TAG_AND_BITS.unpack_from(payload, after_consumer)
    return tag, bool(bits & 1)


def confirmation(payload: bytes) -> tuple[int, bool]:
    """Tag and multiple flag of a ``basic.ack`` or ``basic.nack``."""
    tag, bits = _TAG_AND_BITS.unpack_from(payload, 4)
    return tag, bool(bits & 1)


def reason(payload: bytes) -> str:
    """Code and text of a ``basic.return``."""
    code, length = struct.unpack_from(">HB", payload, 4)
    return f"{code} {payload[7 : 7 + length].decode('utf-8', 'replace')}"


def body_size(payload: bytes) -> int:
    """How many bytes follow a content header."""
    return int.from_bytes(payload[4:12], "big")


def properties(payload: bytes) -> Properties:
    """The properties in a content header.

    Raises:
        Exception: whatever a requester's bytes can cause; also for a time beyond the year 9999.
    """
    flags = int.from_bytes(payload[12:14], "big")
    if flags & 1:
        raise ValueError("a property that AMQP does not have")
    found = Properties()
    position = 14
    for bit, name, read in _PROPERTIES:
        if flags & bit:
            position, value = read(payload, position)
            if name:
                setattr(found, name, value)
    return found


def salvaged(payload: bytes) -> Properties:
    """What can be read of properties of which something cannot: their sender is to get an answer all the
    same."""
    flags = int.from_bytes(payload[12:14], "big")
    found = Properties()
    position = 14
    for bit, name, read in _PROPERTIES:
        if flags & bit:
            end = position + _size(read, payload, position)
            if end > len(payload):
                break
            if name:
                with suppress(Exception):
                    setattr(found, name, read(payload, position)[1])
            position = end
    return found


def _size(read: Callable[[bytes, int], tuple[int, Any]], payload: bytes, position: int) -> int:
    """Bytes that a property takes, whatever is in it."""
    if read is _read_text:
        return 1 + int.from_bytes(payload[position : position + 1], "big")
    if read is _read_table:
        return 4 + int.from_bytes(payload[position : position + 4], "big")
    return 8 if read is _read_timestamp else 1


def _read_text(payload: bytes, position: int) -> tuple[int, str]:
    end = position + 1 + payload[position]
    if end > len(payload):
        raise ValueError("a text goes beyond its frame")
    return end, payload[position + 1 : end].decode()


def _read_table(payload: bytes, position: int) -> tuple[int, Mapping[str, Any]]:
    used, table = pamqp.decode.field_table(payload[position:])
    return position + used, table


def _read_octet(payload: bytes, position: int) -> tuple[int, int]:
    return position + 1, payload[position]


def _read_persistent(payload: bytes, position: int) -> tuple[int, bool]:
    return position + 1, payload[position] == 2


def _read_timestamp(payload: bytes, position: int) -> tuple[int, int]:
    seconds = int.from_bytes(payload[position : position + 8], "big")
    if seconds > 0xFFFFFFFF:  # beyond the year 2106: milliseconds, more likely
        seconds //= 1000
    if seconds > _LATEST_TIMESTAMP:
        raise ValueError("a time beyond the year 9999")
    return position + 8, seconds


_PROPERTIES: tuple[tuple[int, str, Callable[[bytes, int], tuple[int, Any]]], ...] = (
    (1 << 15, "content_type", _read_text),
    (1 << 14, "content_encoding", _read_text),
    (1 << 13, "headers", _read_table),
    (1 << 12, "persistent", _read_persistent),
    (1 << 11, "", _read_octet),  # priority
    (1 << 10, "correlation_id", _read_text),
    (1 << 9, "reply_to", _read_text),
    (1 << 8, "expiration", _read_text),
    (1 << 7, "message_id", _read_text),
    (1 << 6, "timestamp", _read_timestamp),
    (1 << 5, "type", _read_text),
    (1 << 4, "", _read_text),  # user id
    (1 << 3, "", _read_text),  # application id
    (1 << 2, "", _read_text),  # cluster id
)
"""In the order of the wire; those without a name are read over."""


def reply_text(payload: bytes) -> str:
    """Why the broker closes the connection, in its own words."""
    size = int.from_bytes(payload[6:7], "big")
    return payload[7 : 7 + size].decode(errors="replace")
