"""The headers of a message. Only those that the worker uses are read.

A requester may fill a frame with others. They are skipped by their size, whatever is nested in them, so a
table costs time in proportion to its bytes, and memory only for the few headers that are kept.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from session_contracts import amqp

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_TEXT = 32_768
"""Bytes of a text in a header; the worker writes none that is longer."""
MAX_FIELDS = 1000
TRACEPARENT, TRACESTATE = "traceparent", "tracestate"
DEATH = "x-death"
DELIVERY_COUNT = "x-delivery-count"


def _by_name(*names: str) -> Mapping[bytes, str]:
    return {name.encode(): name for name in names}


_USED = _by_name(
    DEATH,
    DELIVERY_COUNT,
    TRACEPARENT,
    TRACESTATE,
    amqp.REQUEST_ID,
    amqp.ERROR_CODE,
    amqp.EXCEPTION_TYPE,
    amqp.EXCEPTION_MESSAGE,
    amqp.EXCEPTION_STACKTRACE,
    amqp.ORIGINAL_QUEUE,
    amqp.FAILED_AT,
    amqp.ATTEMPTS,
    amqp.FIRST_SEEN_AT,
    amqp.WORKER_ID,
    amqp.REQUEUE_COUNT,
    amqp.BODY_SHA256,
    amqp.BODY_BYTES,
    amqp.REFUSED,
    amqp.REDRIVE_COUNT,
)
_USED_OF_DEATH = _by_name("reason", "queue", "time", "original-expiration")

_BOOLEAN, _TEXT, _TIME, _ARRAY, _TABLE = b"tSTAF"
_FIXED = {
    **dict.fromkeys(b"tbB", 1),
    **dict.fromkeys(b"su", 2),
    **dict.fromkeys(b"iIf", 4),
    **dict.fromkeys(b"D", 5),
    **dict.fromkeys(b"lLdT", 8),
    **dict.fromkeys(b"V\0", 0),
}
"""Bytes that a value takes, by its type (https://www.rabbitmq.com/amqp-0-9-1-errata.html)."""
_SIZED = frozenset(b"SAFx")
"""Types whose values begin with their size, in four bytes."""
_SIGNED = {**dict.fromkeys(b"bsIlL", True), **dict.fromkeys(b"Bui", False)}
"""Types of whole numbers, and whether they are signed."""


def read(table: bytes, position: int, end: int) -> dict[str, Any]:
    """Return the headers between two positions, which do not include the table's own size.

    Of ``x-death``, a list, only the newest entry is read. A value is left out if its type is one that its
    header never has, or if it cannot be decoded.

    Raises:
        ValueError: there are more than ``MAX_FIELDS`` headers.
    """
    return _fields(table, position, end, _USED)


def _fields(table: bytes, position: int, end: int, used: Mapping[bytes, str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    fields = 0
    while position < end:
        if (fields := fields + 1) > MAX_FIELDS:
            raise ValueError(f"more than {MAX_FIELDS} headers")
        kind_at = position + 1 + table[position]
        if kind_at >= end:
            break
        name = used.get(table[position + 1 : kind_at])
        kind = table[kind_at]
        position = kind_at + 1
        size = _FIXED.get(kind)
        if size is None:
            if kind not in _SIZED:
                break  # Nobody knows where the next one begins.
            size = int.from_bytes(table[position : position + 4], "big")
            position += 4
        if position + size > end:
            break
        # Of two with one name the first counts: the broker puts its own in the place of the first forged one.
        if name is not None and name not in found:
            value = _value(table, kind, position, position + size)
            if value is not None:
                found[name] = value
        position += size
    return found


def _value(table: bytes, kind: int, position: int, end: int) -> Any:
    """Return the value between two positions, or None."""
    if kind == _TEXT:
        try:
            return table[position:end].decode() if end - position <= MAX_TEXT else None
        except UnicodeDecodeError:
            return None
    if kind in _SIGNED:
        return int.from_bytes(table[position:end], "big", signed=_SIGNED[kind])
    if kind == _BOOLEAN:
        return table[position] != 0
    if kind == _TIME:
        try:
            return datetime.fromtimestamp(int.from_bytes(table[position:end], "big"), UTC)
        except (ValueError, OverflowError, OSError):
            return None
    if kind == _ARRAY and end - position >= 5 and table[position] == _TABLE:
        inner = position + 5 + int.from_bytes(table[position + 1 : position + 5], "big")
        return [_fields(table, position + 5, inner, _USED_OF_DEATH)] if inner <= end else None
    return None
