"""A span of the worker's own, which has ended: as the SDK knows spans, and as OTLP's protobuf has them.

The SDK takes forty microseconds to make a span and to encode it, and a request has two. Written here by the
worker's own few rules both take fifteen; a test holds the two together.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from uuid import UUID

from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import (
    INVALID_SPAN_CONTEXT,
    Link,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    TraceState,
)
from pydantic_core import to_json

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from opentelemetry.sdk.resources import Resource

    from worker.telemetry.trace import TraceContext

SCOPE = InstrumentationScope("session-worker")
MESSAGE_ID, CONVERSATION_ID = "messaging.message.id", "messaging.message.conversation_id"
DELIVERY_TAG, REQUEST_ID = "messaging.rabbitmq.message.delivery_tag", "session_worker.request_id"
ERROR_TYPE = "error.type"

_TIMES = struct.Struct("<BQBQ")
_TIME = struct.Struct("<Q")
_FLAGS = struct.Struct("<I")
_HAS_IS_REMOTE, _IS_REMOTE = 0x100, 0x200


class Operation:
    """What spans of one kind and one queue have in common."""

    def __init__(self, name: str, kind: SpanKind, attributes: Mapping[str, Any]) -> None:
        self.name = name
        self.kind = kind
        self.attributes = attributes
        self.encoded = (
            b"\x2a" + _sized(_text(name)) + b"\x30" + _varint(kind.value + 1) + _attributes(attributes)
        )


@dataclass(slots=True)
class Span:
    """``context`` is that of the delivery's process span, whose trace this one is part of. ``parent_id`` may
    be of another process (``remote``). Times are in nanoseconds since 1970. ``error`` is there when it
    failed: what happened, in words, and of what type."""

    operation: Operation
    context: TraceContext
    span_id: str
    parent_id: str | None
    start: int
    end: int
    message_id: str | None
    conversation_id: str | None
    error: tuple[str, str] | None = None
    tag: int | None = None
    request_id: UUID | None = None
    remote: bool = False
    events: Sequence[tuple[int, str]] = ()
    link: TraceContext | None = None


# -------------------------------------------------------------------------------------- as the SDK's


def context_of(context: TraceContext, *, remote: bool = False) -> SpanContext:
    return SpanContext(
        int(context.trace_id, 16),
        int(context.span_id, 16),
        remote,
        TraceFlags(context.flags),
        TraceState.from_header([context.state]) if context.state else None,
    )


def readable(span: Span, resource: Resource) -> ReadableSpan:
    parent_id = span.parent_id
    return ReadableSpan(
        span.operation.name,
        context_of(span.context._replace(span_id=span.span_id)),
        None
        if parent_id is None
        else context_of(span.context._replace(span_id=parent_id), remote=span.remote),
        resource,
        {**span.operation.attributes, **_facts(span)},
        [Event(name, timestamp=at) for at, name in span.events],
        [] if span.link is None else [Link(context_of(span.link, remote=True))],
        span.operation.kind,
        status=Status() if span.error is None else Status(StatusCode.ERROR, span.error[1]),
        start_time=span.start,
        end_time=span.end,
        instrumentation_scope=SCOPE,
    )


def _facts(span: Span) -> dict[str, str | int]:
    facts: dict[str, str | int | None] = {
        MESSAGE_ID: span.message_id or None,
        CONVERSATION_ID: span.conversation_id or None,
        DELIVERY_TAG: span.tag,
        REQUEST_ID: None if span.request_id is None else str(span.request_id),
        ERROR_TYPE: None if span.error is None else span.error[0],
    }
    return {name: fact for name, fact in facts.items() if fact is not None}


# --------------------------------------------------------------------------------------- as protobuf


class Envelope:
    """What is around encoded spans in an ``ExportTraceServiceRequest``."""

    def __init__(self, resource: Resource) -> None:
        nothing = ReadableSpan("", INVALID_SPAN_CONTEXT, resource=resource, instrumentation_scope=SCOPE)
        by_sdk = encode_spans([nothing]).resource_spans[0]
        self._resource = b"\x0a" + _sized(by_sdk.resource.SerializeToString())
        self._scope = b"\x0a" + _sized(by_sdk.scope_spans[0].scope.SerializeToString())

    def __call__(self, spans: Sequence[bytes]) -> bytes:
        # Many spans are a megabyte: it is copied once.
        size = sum(map(len, spans))
        scope_spans = b"\x12" + _varint(len(self._scope) + size)
        before = self._resource + scope_spans + self._scope
        return b"".join((b"\x0a", _varint(len(before) + size), before, *spans))


def encoded(span: Span) -> bytes:
    """The span as one of a ``ScopeSpans``."""
    context = span.context
    parent = "" if span.parent_id is None else f"2208{span.parent_id}"
    parts = [
        bytes.fromhex(f"0a10{context.trace_id}1208{span.span_id}{parent}"),
        span.operation.encoded,
        _TIMES.pack(0x39, span.start, 0x41, span.end),
    ]
    if span.message_id:
        text = _text(span.message_id)
        parts += (_MESSAGE_ID[len(text)], text)
    if span.conversation_id:
        text = _text(span.conversation_id)
        parts += (_CONVERSATION_ID[len(text)], text)
    if span.tag is not None:
        number = _varint(span.tag)
        parts += (_DELIVERY_TAG[len(number)], number)
    if span.request_id is not None:
        parts += (_REQUEST_ID, to_json(span.request_id)[1:-1])  # the quickest way to its text
    for at, name in span.events:
        parts += (_EVENTS[name], _TIME.pack(at))
    if context.state:
        parts.append(b"\x1a" + _sized(_text(context.state)))
    if span.link is not None:
        parts.append(_link(span.link))
    if span.error is not None:
        kind, words = map(_text, span.error)
        parts += (_ERROR_TYPE[len(kind)], kind)
        parts.append(b"\x7a" + _sized(b"\x12" + _sized(words) + b"\x18\x02"))
    parts.append(_FROM_AFAR if span.remote else _FROM_HERE)
    data = b"".join(parts)
    return b"\x12" + _sized(data)


_FROM_HERE = b"\x85\x01" + _FLAGS.pack(_HAS_IS_REMOTE)
_FROM_AFAR = b"\x85\x01" + _FLAGS.pack(_HAS_IS_REMOTE | _IS_REMOTE)


def _link(to: TraceContext) -> bytes:
    ids = b"\x0a\x10" + bytes.fromhex(to.trace_id) + b"\x12\x08" + bytes.fromhex(to.span_id)
    return b"\x6a" + _sized(ids + b"\x35" + _FLAGS.pack(_HAS_IS_REMOTE | _IS_REMOTE))


def _attributes(attributes: Mapping[str, str | int]) -> bytes:
    parts = []
    for name, value in attributes.items():
        tag, data = (_TEXT, _text(value)) if isinstance(value, str) else (_NUMBER, _varint(value))
        parts.append(_Key(name, tag)[len(data)] + data)
    return b"".join(parts)


_TEXT, _NUMBER = b"\x0a", b"\x18"


class _Key(dict[int, bytes]):
    """What comes before an attribute's value, by the value's size."""

    def __init__(self, name: str, tag: bytes) -> None:
        super().__init__()
        self._key = b"\x0a" + _sized(_text(name)) + b"\x12"
        self._tag = tag

    def __missing__(self, size: int) -> bytes:
        tag = self._tag + _varint(size) if self._tag is _TEXT else self._tag
        before = self._key + _varint(len(tag) + size) + tag
        self[size] = b"\x4a" + _varint(len(before) + size) + before
        return self[size]


class _EventNames(dict[str, bytes]):
    """An event up to its time, by its name."""

    def __missing__(self, event: str) -> bytes:
        name = b"\x12" + _sized(_text(event))
        self[event] = b"\x5a" + _varint(len(name) + 9) + name + b"\x09"
        return self[event]


def _text(text: str) -> bytes:
    return text.encode("utf-8", "replace")


def _sized(data: bytes) -> bytes:
    size = len(data)
    return (_SIZES[size] if size < 1024 else _varint(size)) + data


def _varint(number: int) -> bytes:
    return _LAST[number] if number < 0x80 else _MORE[number & 0x7F] + _higher(number >> 7)


_LAST = tuple(number.to_bytes(1, "little") for number in range(0x80))
_MORE = tuple(number.to_bytes(1, "little") for number in range(0x80, 0x100))
_higher = lru_cache(maxsize=256)(_varint)
"""The numbers of deliveries come one after the other: most differ in what is lowest alone."""

_SIZES = tuple(_varint(size) for size in range(1024))

_EVENTS = _EventNames()
_MESSAGE_ID, _CONVERSATION_ID = _Key(MESSAGE_ID, _TEXT), _Key(CONVERSATION_ID, _TEXT)
_DELIVERY_TAG = _Key(DELIVERY_TAG, _NUMBER)
_REQUEST_ID = _Key(REQUEST_ID, _TEXT)[len(str(UUID(int=0)))]
_ERROR_TYPE = _Key(ERROR_TYPE, _TEXT)
