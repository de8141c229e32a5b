"""A span of the worker's own, which has ended, as OTLP's protobuf has it.

The SDK takes forty microseconds to make a span and to encode it, and a request has two. Written here by a few
rules of the worker's own both take five. A test holds the two together.
"""

from __future__ import annotations

import struct
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.trace.v1.trace_pb2 import ScopeSpans
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

from session_worker.telemetry.trace import SAMPLED, TraceContext

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from uuid import UUID

    from opentelemetry.sdk.resources import Resource

SCOPE = InstrumentationScope("session-worker")
MESSAGE_ID, CONVERSATION_ID = "messaging.message.id", "messaging.message.conversation_id"
DELIVERY_TAG, REQUEST_ID = "messaging.rabbitmq.message.delivery_tag", "session_worker.request_id"
ERROR_TYPE = "error.type"

_HAS_IS_REMOTE, _IS_REMOTE = 0x100, 0x200

_from_hex = bytes.fromhex


class Operation:
    """What spans of one kind and one queue have in common."""

    def __init__(self, name: str, kind: SpanKind, attributes: Mapping[str, Any]) -> None:
        self.name = name
        self.kind = kind
        self.attributes = attributes
        self.encoded = (
            b"\x2a" + _sized(_text(name)) + b"\x30" + _varint(kind.value + 1) + _attributes(attributes)
        )


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


def event(text: str) -> bytes:
    """Of an event what comes before its time."""
    name = b"\x12" + _sized(_text(text))
    return b"\x5a" + _varint(len(name) + 9) + name + b"\x09"


def encoded(
    operation: Operation,
    context: TraceContext,
    span_id: str,
    parent_id: str | None,
    start: int,
    end: int,
    message_id: str | None,
    conversation_id: str | None,
    error: tuple[str, str] | None = None,
    tag: int | None = None,
    request_id: UUID | None = None,
    link: TraceContext | None = None,
    events: Sequence[Any] = (),
    *,
    remote: bool = False,
) -> bytes:
    """A span as one of a ``ScopeSpans``.

    ``context`` is that of the delivery's process span, whose trace this one is part of. ``parent_id`` may be
    of another process (``remote``). Times are in nanoseconds since 1970. ``error`` is there when it failed:
    of what type, and in words. ``events``: what happened (by ``event``), when, what happened, when.
    """
    parent = "" if parent_id is None else f"2208{parent_id}"
    ids = _from_hex(f"0a10{context.trace_id}1208{span_id}{parent}")
    message = _text(message_id or "")
    conversation = _text(conversation_id or "")
    number = b"" if tag is None else _varint(tag)
    request = b"" if request_id is None else to_json(request_id)[1:-1]  # the quickest way to its text
    rest = _FROM_AFAR if remote else _FROM_HERE
    if error is not None or link is not None or context.state:
        rest += _seldom(error, link, context.state)
    sizes = len(ids), len(message), len(conversation), len(number), len(request), len(rest), *events[::2]
    pack, before, common, message_key, conversation_key, tag_key, request_key = _layout(operation, *sizes)
    data: bytes = pack(
        before,
        ids,
        common,
        start,
        0x41,
        end,
        message_key,
        message,
        conversation_key,
        conversation,
        tag_key,
        number,
        request_key,
        request,
        rest,
        *events,
    )
    return data


@lru_cache(maxsize=1024)
def _layout(operation: Operation, ids: int, *sizes: Any) -> tuple[Any, ...]:
    """What puts a span together whose parts are of these sizes, and the parts that all such spans have."""
    *facts, rest = sizes[:5]
    events = sizes[5:]
    common = operation.encoded + b"\x39"
    keys = [_before_value(*fact, size) if size else b"" for fact, size in zip(_FACTS, facts, strict=True)]
    parts = f"{ids}s{len(common)}sQBQ"
    parts += "".join(f"{len(key)}s{size}s" for key, size in zip(keys, facts, strict=True))
    parts += f"{rest}s" + "".join(f"{len(each)}sQ" for each in events)
    before = b"\x12" + _varint(struct.calcsize(f"<{parts}"))
    return struct.Struct(f"<{len(before)}s{parts}").pack, before, common, *keys


def _seldom(error: tuple[str, str] | None, link: TraceContext | None, state: str) -> bytes:
    """What few spans have."""
    parts = b""
    if state:
        parts += b"\x1a" + _sized(_text(state))
    if link is not None:
        parts += b"\x6a" + _sized(_from_hex(f"0a10{link.trace_id}1208{link.span_id}35") + _REMOTE)
    if error is not None:
        kind, words = map(_text, error)
        parts += _before_value(ERROR_TYPE, _TEXT, len(kind)) + kind
        parts += b"\x7a" + _sized(b"\x12" + _sized(words) + b"\x18\x02")
    return parts


def _attributes(attributes: Mapping[str, str | int]) -> bytes:
    parts = b""
    for name, value in attributes.items():
        kind, data = (_TEXT, _text(value)) if isinstance(value, str) else (_NUMBER, _varint(value))
        parts += _before_value(name, kind, len(data)) + data
    return parts


def _before_value(name: str, kind: bytes, size: int) -> bytes:
    """Of an attribute what comes before its value, which takes ``size`` bytes."""
    tag = kind + _varint(size) if kind is _TEXT else kind
    before = b"\x0a" + _sized(_text(name)) + b"\x12" + _varint(len(tag) + size) + tag
    return b"\x4a" + _varint(len(before) + size) + before


def _text(text: str) -> bytes:
    return text.encode("utf-8", "replace")


def _sized(data: bytes) -> bytes:
    return _varint(len(data)) + data


def _varint(number: int) -> bytes:
    return _LAST[number] if number < 0x80 else _MORE[number & 0x7F] + _higher(number >> 7)


_LAST = tuple(number.to_bytes(1, "little") for number in range(0x80))
_MORE = tuple(number.to_bytes(1, "little") for number in range(0x80, 0x100))
_higher = lru_cache(maxsize=256)(_varint)
"""The numbers of deliveries come one after the other: most differ in what is lowest alone."""

_TEXT, _NUMBER = b"\x0a", b"\x18"
_FACTS = ((MESSAGE_ID, _TEXT), (CONVERSATION_ID, _TEXT), (DELIVERY_TAG, _NUMBER), (REQUEST_ID, _TEXT))
_LOCAL, _REMOTE = (flags.to_bytes(4, "little") for flags in (_HAS_IS_REMOTE, _HAS_IS_REMOTE | _IS_REMOTE))
_FROM_HERE, _FROM_AFAR = b"\x85\x01" + _LOCAL, b"\x85\x01" + _REMOTE


# -------------------------------------------------------------------------------------- as the SDK's


def context_of(context: TraceContext, *, remote: bool = False) -> SpanContext:
    return SpanContext(
        int(context.trace_id, 16),
        int(context.span_id, 16),
        remote,
        TraceFlags(context.flags),
        TraceState.from_header([context.state]) if context.state else None,
    )


def readable(data: bytes, resource: Resource) -> ReadableSpan:
    """What ``encoded`` made, for an exporter that takes the SDK's spans."""
    (span,) = ScopeSpans.FromString(data).spans
    context = TraceContext(span.trace_id.hex(), span.span_id.hex(), SAMPLED, span.trace_state)
    parent = None
    if span.parent_span_id:
        parent_context = replace(context, span_id=span.parent_span_id.hex())
        parent = context_of(parent_context, remote=bool(span.flags & _IS_REMOTE))
    links = [TraceContext(link.trace_id.hex(), link.span_id.hex(), SAMPLED) for link in span.links]
    return ReadableSpan(
        span.name,
        context_of(context),
        parent,
        resource,
        {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in span.attributes},
        [Event(event.name, timestamp=event.time_unix_nano) for event in span.events],
        [Link(context_of(link, remote=True)) for link in links],
        SpanKind(span.kind - 1),
        status=Status(StatusCode(span.status.code), span.status.message or None),
        start_time=span.start_time_unix_nano,
        end_time=span.end_time_unix_nano,
        instrumentation_scope=SCOPE,
    )
