"""The worker's own encoding of spans against the SDK's, and the outbox they wait in."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.resources import Resource
from opentelemetry.trace import SpanKind

from worker.telemetry import outbox
from worker.telemetry.outbox import Outbox
from worker.telemetry.spans import Envelope, Operation, Span, encoded, readable
from worker.telemetry.trace import TraceContext
from worker.telemetry.traces import _outbox

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
SPANS = st.builds(
    Span,
    operation=st.builds(Operation, NAMES, st.sampled_from(SpanKind), FACTS),
    context=CONTEXTS,
    span_id=_hex(16),
    parent_id=st.none() | _hex(16),
    start=TIMES,
    end=TIMES,
    message_id=st.none() | TEXT,
    conversation_id=st.none() | TEXT,
    error=st.none() | st.tuples(NAMES, NAMES),
    tag=st.none() | st.integers(0, 2**63 - 1),
    request_id=st.none() | st.uuids(),
    remote=st.booleans(),
    events=st.lists(st.tuples(TIMES, NAMES), max_size=3),
    link=st.none() | CONTEXTS,
)


@given(st.lists(SPANS, min_size=1, max_size=4))
def test_a_span_reads_as_the_sdk_would_have_written_it(spans: list[Span]) -> None:
    for span in spans:
        span.remote = span.remote and span.parent_id is not None
    ours = ExportTraceServiceRequest.FromString(Envelope(RESOURCE)([encoded(span) for span in spans]))
    theirs = encode_spans([readable(span, RESOURCE) for span in spans])
    for request in (ours, theirs):
        for span in request.resource_spans[0].scope_spans[0].spans:
            span.status.SetInParent()  # the SDK writes an empty one, which means the same
    assert ours == theirs


def test_a_lone_surrogate_costs_a_character_and_not_the_span() -> None:
    span = Span(
        Operation("process", SpanKind.CONSUMER, {}),
        TraceContext("1" * 32, "2" * 16, 1),
        "2" * 16,
        None,
        start=1,
        end=2,
        message_id="a\ud800b",
        conversation_id=None,
        error=("Error", "\udfff"),
    )
    (resource_spans,) = ExportTraceServiceRequest.FromString(
        Envelope(RESOURCE)([encoded(span)])
    ).resource_spans
    (found,) = resource_spans.scope_spans[0].spans
    assert found.attributes[0].value.string_value == "a?b"
    assert found.status.message == "?"


# ---------------------------------------------------------------------------------------- the outbox


def a_span(number: int = 1) -> Span:
    context = TraceContext("1" * 32, "2" * 16, 1)
    return Span(Operation("send", SpanKind.PRODUCER, {}), context, f"{number:016x}", None, 1, 2, None, None)


def test_a_full_outbox_drops_and_says_so_without_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "ROOM", 3)
    monkeypatch.setattr(outbox, "PAUSE_SECONDS", 0.0)
    sending, go_on = threading.Event(), threading.Event()
    sent: list[Span] = []
    troubles: list[str] = []

    def send(batch: list[Span]) -> None:
        sending.set()
        assert go_on.wait(10)
        sent.extend(batch)

    box = Outbox(lambda spans: spans[0], send, troubles.append)
    box.put([a_span()])
    assert sending.wait(10)
    for _ in range(5):
        box.put([a_span()])
    assert troubles == ["the collector takes the spans too slowly"] * 2
    go_on.set()
    box.close()
    assert len(sent) == 1 + 3


def test_a_batch_that_fails_is_told_and_the_next_one_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "BATCH", 2)
    sent: list[int] = []
    troubles: list[str] = []

    def send(spans: list[Span]) -> None:
        if not troubles:
            raise OSError("no route")
        sent.append(len(spans))

    box = Outbox(lambda spans: spans[0], send, troubles.append)
    for _ in range(5):
        box.put([a_span()])
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
    quick.put([a_span()])
    quick.close()
    assert ExportTraceServiceRequest.FromString(bodies[0]) is not None

    class Other:
        export = staticmethod(exported.extend)

    slow = _outbox(Other(), RESOURCE, pytest.fail)  # type: ignore[arg-type]
    slow.put([a_span(7), a_span(8)])
    slow.close()
    assert [span.context.span_id for span in exported] == [7, 8]
    assert exported[0].to_json() == readable(a_span(7), RESOURCE).to_json()
