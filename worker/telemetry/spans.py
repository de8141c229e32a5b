"""A span of the worker's own, which has ended: as the SDK knows spans, and as OTLP's protobuf has them.

The SDK takes forty microseconds to make a span and to encode it, and a request has three. Written here by the
worker's own few rules they take a tenth of that; a test holds the two together.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

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

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from opentelemetry.sdk.resources import Resource

    from worker.telemetry.trace import TraceContext

SCOPE = InstrumentationScope("session-worker")

_TIMES = struct.Struct("<BQBQ")
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
    be of another process (``remote``). Times are in nanoseconds since 1970, ``facts`` texts and whole
    numbers. ``error`` is there when it failed: what happened, in words."""

    operation: Operation
    context: TraceContext
    span_id: str
    parent_id: str | None
    start: int
    end: int
    facts: Mapping[str, str | int]
    remote: bool = False
    events: Sequence[tuple[int, str]] = ()
    link: TraceContext | None = None
    error: str | None = None


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
        {**span.operation.attributes, **span.facts},
        [Event(name, timestamp=at) for at, name in span.events],
        [] if span.link is None else [Link(context_of(span.link, remote=True))],
        span.operation.kind,
        status=Status() if span.error is None else Status(StatusCode.ERROR, span.error),
        start_time=span.start,
        end_time=span.end,
        instrumentation_scope=SCOPE,
    )


# --------------------------------------------------------------------------------------- as protobuf


class Envelope:
    """What is around encoded spans in an ``ExportTraceServiceRequest``."""

    def __init__(self, resource: Resource) -> None:
        nothing = ReadableSpan("", INVALID_SPAN_CONTEXT, resource=resource, instrumentation_scope=SCOPE)
        by_sdk = encode_spans([nothing]).resource_spans[0]
        self._resource = b"\x0a" + _sized(by_sdk.resource.SerializeToString())
        self._scope = b"\x0a" + _sized(by_sdk.scope_spans[0].scope.SerializeToString())

    def __call__(self, spans: Iterable[bytes]) -> bytes:
        return b"\x0a" + _sized(self._resource + b"\x12" + _sized(self._scope + b"".join(spans)))


def encoded(span: Span) -> bytes:
    """The span as one of a ``ScopeSpans``."""
    context = span.context
    parent = "" if span.parent_id is None else f"2208{span.parent_id}"
    parts = [
        bytes.fromhex(f"0a10{context.trace_id}1208{span.span_id}{parent}"),
        span.operation.encoded,
        _TIMES.pack(0x39, span.start, 0x41, span.end),
        _attributes(span.facts),
    ]
    for at, name in span.events:
        parts += (_named(name), at.to_bytes(8, "little"))
    if context.state:
        parts.append(b"\x1a" + _sized(_text(context.state)))
    if span.link is not None:
        parts.append(_link(span.link))
    if span.error is not None:
        parts.append(b"\x7a" + _sized(b"\x12" + _sized(_text(span.error)) + b"\x18\x02"))
    parts.append(_FROM_AFAR if span.remote else _FROM_HERE)
    data = b"".join(parts)
    return b"\x12" + _sized(data)


_FROM_HERE = b"\x85\x01" + _FLAGS.pack(_HAS_IS_REMOTE)
_FROM_AFAR = b"\x85\x01" + _FLAGS.pack(_HAS_IS_REMOTE | _IS_REMOTE)


def _link(to: TraceContext) -> bytes:
    ids = b"\x0a\x10" + bytes.fromhex(to.trace_id) + b"\x12\x08" + bytes.fromhex(to.span_id)
    return b"\x6a" + _sized(ids + b"\x35" + _FLAGS.pack(_HAS_IS_REMOTE | _IS_REMOTE))


@lru_cache(maxsize=64)
def _named(event: str) -> bytes:
    """An event up to its time."""
    name = b"\x12" + _sized(_text(event))
    return b"\x5a" + _varint(len(name) + 9) + name + b"\x09"


def _attributes(attributes: Mapping[str, str | int]) -> bytes:
    parts = []
    for name, value in attributes.items():
        data = _text(value) if isinstance(value, str) else _varint(value)
        before = _before if isinstance(value, str) else _before_number
        parts.append(before(name, len(data)) + data)
    return b"".join(parts)


@lru_cache(maxsize=1024)
def _before(name: str, size: int) -> bytes:
    """What comes before an attribute's text of that size; most are ids, which have one size."""
    return _pair(name, b"\x0a" + _varint(size), size)


@lru_cache(maxsize=256)
def _before_number(name: str, size: int) -> bytes:
    return _pair(name, b"\x18", size)


def _pair(name: str, tag: bytes, size: int) -> bytes:
    key = b"\x0a" + _sized(_text(name)) + b"\x12" + _varint(len(tag) + size)
    return b"\x4a" + _varint(len(key) + len(tag) + size) + key + tag


def _text(text: str) -> bytes:
    return text.encode("utf-8", "replace")


def _sized(data: bytes) -> bytes:
    size = len(data)
    return (_SIZES[size] if size < 1024 else _varint(size)) + data


def _varint(number: int) -> bytes:
    data = bytearray()
    while number > 0x7F:
        data.append(number & 0x7F | 0x80)
        number >>= 7
    data.append(number)
    return bytes(data)


_SIZES = tuple(_varint(size) for size in range(1024))
