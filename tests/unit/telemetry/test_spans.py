"""The worker's own encoding of spans against the SDK's, and the outbox they wait in."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import ScopeSpans
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.trace import Link, SpanKind, Status, StatusCode

from session_worker.telemetry import outbox
from session_worker.telemetry.outbox import Outbox
from session_worker.telemetry.spans import (
    CONVERSATION_ID,
    DELIVERY_TAG,
    ERROR_TYPE,
    MESSAGE_ID,
    REQUEST_ID,
    SCOPE,
    Envelope,
    Operation,
    context_of,
    encoded,
    event,
    readable,
)
from session_worker.telemetry.trace import TraceContext
from session_worker.telemetry.traces import _outbox

if TYPE_CHECKING:
    from uuid import UUID

RESOURCE = Resource({"service.name": "session-worker", "process.pid": 7, "list": ["a", "b"]})
TEXT = st.text(st.characters(codec="utf-8"), max_size=300)
NAMES = st.text(st.characters(codec="utf-8"), min_size=1, max_size=200)
FACTS = st.dictionaries(NAMES, NAMES | st.integers(0, 2**63 - 1), max_size=5)
TIMES = st.integers(0, 2**64 - 1)


def _hex(digits: int) -> st.SearchStrategy[str]:
    return st.integers(1, 16**digits - 1).map(lambda number: f"{number:0{digits}x}")


CONTEXTS = st.builds(
    TraceContext, _hex(32), _hex(16), st.integers(0, 3), st.sampled_from(["", "a=1", "a=1,b=2"])
)
OPERATIONS = st.builds(Operation, NAMES, st.sampled_from(SpanKind), FACTS)


@dataclass
class Span:
    """What ``encoded`` is given, except for the operation."""

    context: TraceContext
    span_id: str
    parent_id: str | None
    start: int
    end: int
    message_id: str | None
    conversation_id: str | None
    error: tuple[str, str] | None
    tag: int | None
    request_id: UUID | None
    link: TraceContext | None
    events: list[tuple[str, int]]
    remote: bool

    def encoded(self, operation: Operation) -> bytes:
        events = [part for text, at in self.events for part in (event(text), at)]
        return encoded(operation, **{**vars(self), "events": events})

    def by_sdk(self, operation: Operation) -> ReadableSpan:
        facts = {
            MESSAGE_ID: self.message_id or None,
            CONVERSATION_ID: self.conversation_id or None,
            DELIVERY_TAG: self.tag,
            REQUEST_ID: None if self.request_id is None else str(self.request_id),
            ERROR_TYPE: None if self.error is None else self.error[0],
        }
        own = context_of(replace(self.context, span_id=self.span_id))
        parent = None
        if self.parent_id is not None:
            parent = context_of(replace(self.context, span_id=self.parent_id), remote=self.remote)
        return ReadableSpan(
            operation.name,
            own,
            parent,
            RESOURCE,
            {**operation.attributes, **{name: fact for name, fact in facts.items() if fact is not None}},
            [Event(text, timestamp=at) for text, at in self.events],
            [] if self.link is None else [Link(context_of(self.link, remote=True))],
            operation.kind,
            status=Status() if self.error is None else Status(StatusCode.ERROR, self.error[1]),
            start_time=self.start,
            end_time=self.end,
            instrumentation_scope=SCOPE,
        )


@st.composite
def spans(draw: st.DrawFn) -> Span:
    parent_id = draw(st.none() | _hex(16))
    return Span(
        context=draw(CONTEXTS),
        span_id=draw(_hex(16)),
        parent_id=parent_id,
        start=draw(TIMES),
        end=draw(TIMES),
        message_id=draw(st.none() | TEXT),
        conversation_id=draw(st.none() | TEXT),
        error=draw(st.none() | st.tuples(NAMES, NAMES)),
        tag=draw(st.none() | st.integers(0, 2**63 - 1)),
        request_id=draw(st.none() | st.uuids()),
        link=draw(st.none() | CONTEXTS),
        events=draw(st.lists(st.tuples(NAMES, TIMES), max_size=3)),
        remote=parent_id is not None and draw(st.booleans()),
    )


def _without_empty_status(request: Any) -> Any:
    """The SDK writes an empty status, which means the same as none."""
    for span in request.resource_spans[0].scope_spans[0].spans:
        span.status.SetInParent()
    return request


@given(OPERATIONS, st.lists(spans(), min_size=1, max_size=4))
def test_a_span_reads_as_the_sdk_would_have_written_it(operation: Operation, those: list[Span]) -> None:
    """Several of one operation: what is remembered of the shape of one must not harm the next."""
    ours = ExportTraceServiceRequest.FromString(
        Envelope(RESOURCE)([span.encoded(operation) for span in those])
    )
    theirs = encode_spans([span.by_sdk(operation) for span in those])
    assert _without_empty_status(ours) == _without_empty_status(theirs)


@given(OPERATIONS, spans())
def test_an_exporter_of_the_sdks_is_given_the_same_span(operation: Operation, span: Span) -> None:
    found = readable(span.encoded(operation), RESOURCE)
    assert encode_spans([found]) == encode_spans([span.by_sdk(operation)])
    assert found.context is not None
    assert found.context.trace_flags.sampled


def test_a_lone_surrogate_costs_a_character_and_not_the_span() -> None:
    data = a_span(message_id="a\ud800b", error=("Err\ud800r", "\udfff"))
    (found,) = ScopeSpans.FromString(data).spans
    assert [each.value.string_value for each in found.attributes] == ["a?b", "Err?r"]
    assert found.status.message == "?"


# ---------------------------------------------------------------------------------------- the outbox


def a_span(number: int = 1, message_id: str | None = None, error: tuple[str, str] | None = None) -> bytes:
    operation = Operation("send", SpanKind.PRODUCER, {})
    context = TraceContext("1" * 32, "2" * 16, 1)
    return encoded(operation, context, f"{number:016x}", None, 1, 2, message_id, None, error)


def test_a_full_outbox_drops_and_says_so_without_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "ROOM", 3)
    monkeypatch.setattr(outbox, "PAUSE_SECONDS", 0.0)
    sending, go_on = threading.Event(), threading.Event()
    sent: list[bytes] = []
    troubles: list[str] = []

    def send(batch: list[bytes]) -> None:
        sending.set()
        assert go_on.wait(10)
        sent.extend(batch)

    box = Outbox(send, troubles.append)
    box.put(a_span())
    assert sending.wait(10)
    for _ in range(5):
        box.put(a_span())
    assert troubles == ["the collector takes the spans too slowly"] * 2
    go_on.set()
    box.close()
    assert len(sent) == 1 + 3


def test_a_batch_that_fails_is_told_and_the_next_one_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "BATCH", 2)
    sent: list[int] = []
    troubles: list[str] = []

    def send(spans: list[bytes]) -> None:
        if not troubles:
            raise OSError("no route")
        sent.append(len(spans))

    box = Outbox(send, troubles.append)
    for _ in range(5):
        box.put(a_span())
    box.close()
    assert troubles == ["OSError: no route"]
    assert sum(sent) == 3


def test_spans_go_the_quick_way_with_this_sdk_and_the_sdks_way_with_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The quick way uses a private name of the SDK's; when this fails, look for its successor."""
    bodies: list[bytes] = []
    exported: list[Any] = []
    exporter = OTLPSpanExporter()
    monkeypatch.setattr(exporter._client, "export", bodies.append)
    quick = _outbox(exporter, RESOURCE, pytest.fail)
    quick.put(a_span())
    quick.close()
    assert ExportTraceServiceRequest.FromString(bodies[0]) is not None

    class Other:
        export = staticmethod(exported.extend)

    slow = _outbox(Other(), RESOURCE, pytest.fail)  # type: ignore[arg-type]
    slow.put(a_span(7))
    slow.put(a_span(8))
    slow.close()
    assert [span.context.span_id for span in exported] == [7, 8]
    assert exported[0].to_json() == readable(a_span(7), RESOURCE).to_json()
