"""The spans of a worker in this process: which trace each is in, what it says, and how it leaves."""

from __future__ import annotations

import asyncio
import logging
import threading
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, cast
from uuid import uuid4

import pytest
from opentelemetry import trace as otel
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, DEFAULT_ON, ParentBased, Sampler, TraceIdRatioBased
from opentelemetry.trace import SpanKind, StatusCode
from pydantic import SecretStr

from session_contracts.amqp import Names
from session_worker.messages.errors import UnroutableError
from session_worker.operations.handler import PermanentError
from session_worker.requests.outcomes import Busy
from session_worker.runtime.worker import Worker
from session_worker.telemetry import traces
from session_worker.telemetry.spans import TraceIds
from tests.support import parts

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from pathlib import Path

    from opentelemetry.sdk.trace import ReadableSpan

    from session_contracts import CreateSessionRequest
    from session_worker.broker.link import Link
    from session_worker.messages.message import Message
    from session_worker.operations.handler import Context

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
HEADERS = {"traceparent": f"00-{TRACE}-{SPAN}-01"}
OTHER = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
PROCESS = "process session.create"
SERVER: dict[str, str | int] = {"server.address": "b", "server.port": 1}


class FakeLink:
    """Confirms what is published, or fails as it is told."""

    def __init__(self) -> None:
        self.publisher = self
        self.sent: list[Message] = []
        self.error: Exception | None = None

    async def publish(self, message: Message) -> None:
        message.properties.message_id = str(uuid4())
        self.sent.append(message)
        if self.error is not None:
            raise self.error


class Bench:
    """A worker without a broker. `deliver` has it serve a delivery, and gives the spans that made."""

    def __init__(self, worker: Worker, exporter: InMemorySpanExporter, provider: TracerProvider) -> None:
        self.worker = worker
        self.tracer = provider.get_tracer("a handler's")
        self.link = FakeLink()
        self.exporter = exporter
        worker.keeper.link = cast("Link", self.link)

    async def deliver(self, content: bytes, **fields: Any) -> dict[str, ReadableSpan]:
        self.exporter.clear()
        fields = {"reply_to": "session.replies", "message_id": "message", "tag": 7} | fields
        await asyncio.create_task(self.worker.intakes[0]._serve(parts.delivery(content, **fields)))
        found = self.exporter.get_finished_spans()
        assert len({span.name for span in found}) == len(found)
        return {span.name: span for span in found}


@asynccontextmanager
async def bench(
    monkeypatch: pytest.MonkeyPatch,
    folder: Path,
    act: Callable[[CreateSessionRequest, Context], object] = lambda *_: None,
    sampler: Sampler = DEFAULT_ON,
) -> AsyncIterator[Bench]:
    async def handle(request: CreateSessionRequest, context: Context) -> None:
        act(request, context)

    exporter = InMemorySpanExporter()
    provider = TracerProvider(sampler, Resource({}), shutdown_on_exit=False, id_generator=TraceIds())
    provider.add_span_processor(SimpleSpanProcessor(exporter))

    def start(_: object, names: Any, *__: object) -> traces.Traces:
        return traces.Traces(provider, names, SERVER)

    monkeypatch.setattr("session_worker.telemetry.traces.start", start)
    monkeypatch.setattr("session_worker.operations.loading.load", lambda *_, **__: parts.app_of(handle))
    settings = parts.worker_settings(
        ledger_url=SecretStr(f"sqlite:///{folder}/ledger.db"), traces=True, max_attempts=2
    )
    worker = Worker(settings, asyncio.Event())
    await worker.ledger.open()
    try:
        yield Bench(worker, exporter, provider)
    finally:
        await worker.ledger.close()
        assert worker.traces is not None
        await worker.traces.close()


def trace_of(span: ReadableSpan) -> str:
    assert span.context is not None
    return f"{span.context.trace_id:032x}"


def parent_of(span: ReadableSpan) -> str | None:
    return None if span.parent is None else f"{span.parent.span_id:016x}"


def id_of(span: ReadableSpan) -> str:
    assert span.context is not None
    return f"{span.context.span_id:016x}"


def facts(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


async def test_each_of_many_handlers_at_work_finds_its_own_span(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """In its task, in what it starts from there, and in threads."""
    seen: dict[str, set[str]] = {}

    def here() -> str:
        return f"{otel.get_current_span().get_span_context().span_id:016x}"

    async with bench(monkeypatch, tmp_path) as worker:

        async def handle(request: CreateSessionRequest, _: Context) -> None:
            found = [here()]
            await asyncio.sleep(0.01)
            found += await asyncio.gather(asyncio.to_thread(here), asyncio.to_thread(here))
            seen[str(request.request_id)] = {*found, here()}

        worker.worker.intakes[0].flow._binding = parts.hooked(handle)
        ids = [uuid4() for _ in range(5)]
        await asyncio.gather(
            *(
                asyncio.create_task(
                    worker.worker.intakes[0]._serve(parts.delivery(parts.body(one), message_id=str(one)))
                )
                for one in ids
            )
        )
        assert here() == f"{0:016x}"
        spans = [span for span in worker.exporter.get_finished_spans() if span.name == PROCESS]
    assert {facts(span)["session_worker.request_id"]: {id_of(span)} for span in spans} == seen
    assert len(seen) == 5


async def test_processing_and_sending_are_two_spans_of_the_requesters_trace(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen: list[str] = []

    def act(*_: object) -> None:
        seen.append(f"{otel.get_current_span().get_span_context().span_id:016x}")

    async with bench(monkeypatch, tmp_path, act) as worker:
        spans = await worker.deliver(parts.body(uuid4()), headers=HEADERS)
    assert {name: (span.kind, parent_of(span)) for name, span in spans.items()} == {
        PROCESS: (SpanKind.CONSUMER, SPAN),
        "send session.replies": (SpanKind.PRODUCER, id_of(spans[PROCESS])),
    }
    assert {trace_of(span) for span in spans.values()} == {TRACE}
    parent = spans[PROCESS].parent
    assert parent is not None
    assert parent.is_remote
    assert spans[PROCESS].status.status_code is StatusCode.UNSET
    assert [event.name for event in spans[PROCESS].events] == ["attempt began", "attempt ended", "ack"]
    assert seen == [id_of(spans[PROCESS])]
    assert otel.get_current_span() is otel.INVALID_SPAN  # nothing of it stays


async def test_every_attribute_is_documented_and_every_documented_one_is_made(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def act(*_: object) -> None:
        raise PermanentError("no")

    async with bench(monkeypatch, tmp_path, act) as worker:
        spans = await worker.deliver(parts.body(uuid4()), correlation_id="call")
    assert set().union(*map(facts, spans.values())) == traces.ATTRIBUTES.keys()


async def test_a_duplicate_of_another_trace_stays_in_its_own_and_links_to_the_first(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    body = parts.body(uuid4())
    async with bench(monkeypatch, tmp_path) as worker:
        await worker.deliver(body, headers=HEADERS)
        process = (await worker.deliver(body, headers=OTHER))[PROCESS]
        same = (await worker.deliver(body, headers=HEADERS))[PROCESS]
        bare = (await worker.deliver(body))[PROCESS]
    assert trace_of(process) in OTHER["traceparent"]
    assert [f"{link.context.trace_id:032x}" for link in process.links] == [TRACE]
    assert facts(process)["session_worker.outcome"] == "replayed"
    for duplicate in (same, bare):
        assert (trace_of(duplicate), parent_of(duplicate), list(duplicate.links)) == (TRACE, SPAN, [])


async def test_every_end_says_how_it_was(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What fails is an error; a business answer, a duplicate or one who came too late is none."""

    def act(request: CreateSessionRequest, _: Context) -> None:
        if request.metadata.get("fails"):
            raise RuntimeError("the reason why")

    ends: dict[str, tuple[object, str | None]] = {}
    known = uuid4()
    failing = parts.body(uuid4(), metadata={"fails": True})
    async with bench(monkeypatch, tmp_path, act) as worker:
        for content, fields in (
            (parts.body(known), {}),
            (parts.body(known, user_id="other"), {}),
            (b"{", {"correlation_id": "garbage"}),
            (parts.body(uuid4()), {"expiration": "0"}),
            (failing, {}),
            (failing, {}),  # before it is due
        ):
            process = (await worker.deliver(content, **fields))[PROCESS]
            code = cast("str | None", facts(process).get("error.type"))
            assert (process.status.status_code is StatusCode.ERROR) == (code is not None)
            ends[f"{len(ends)} {facts(process)['session_worker.outcome']}"] = (
                facts(process).get("session_worker.attempt"),
                code,
            )
    assert ends == {
        "0 completed": (1, None),
        "1 refused": (None, "idempotency_conflict"),
        "2 refused": (None, "unreadable"),
        "3 expired": (None, None),
        "4 retry_later": (1, "handler_failed"),
        "5 busy": (None, None),
    }


async def test_an_answer_that_nobody_takes_is_a_failed_send_of_a_good_request(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async with bench(monkeypatch, tmp_path) as worker:
        worker.link.error = UnroutableError("there is no queue of that name")
        spans = await worker.deliver(parts.body(uuid4()), reply_to="amq.gen-gone")
    assert facts(spans["send"])["error.type"] == "UnroutableError"
    assert spans["send"].status.description == "there is no queue of that name"
    assert facts(spans["send"])["messaging.destination.name"] == "amq.gen-gone"
    assert spans[PROCESS].status.status_code is StatusCode.UNSET


async def test_a_defect_is_in_the_span_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async with bench(monkeypatch, tmp_path) as worker:

        async def decide(*_: object) -> None:
            raise ZeroDivisionError("a defect")

        monkeypatch.setattr(worker.worker.intakes[0].flow, "decide", decide)
        process = (await worker.deliver(parts.body(uuid4())))[PROCESS]
    assert facts(process)["error.type"] == "ZeroDivisionError"
    assert facts(process)["session_worker.outcome"] == Busy.__name__.lower()


@pytest.mark.parametrize(
    "traceparent", ["", "00-" + "0" * 32 + f"-{SPAN}-01", "garbage", HEADERS["traceparent"] + "x", 7, None]
)
async def test_garbage_begins_a_trace_of_its_own(
    traceparent: object, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    headers = {"traceparent": traceparent, "tracestate": "of=nothing"}
    async with bench(monkeypatch, tmp_path) as worker:
        spans = await worker.deliver(parts.body(uuid4()), headers=headers)
        (reply,) = worker.link.sent
    assert spans[PROCESS].parent is None
    assert reply.properties.headers == {
        "traceparent": f"00-{trace_of(spans[PROCESS])}-{id_of(spans['send session.replies'])}-03"
    }


@pytest.mark.parametrize(
    ("sampler", "flags", "made", "answered"),
    [
        (DEFAULT_ON, "01", True, "01"),
        (DEFAULT_ON, "00", False, "00"),
        (ALWAYS_OFF, "01", False, "00"),
        (ParentBased(ALWAYS_OFF), "01", True, "01"),
        (DEFAULT_ON, None, True, "03"),
        (DEFAULT_ON, "03", True, "03"),
        (TraceIdRatioBased(1.0), "00", True, "01"),
    ],
)
async def test_the_sampler_decides(
    sampler: Sampler,
    flags: str | None,
    made: bool,
    answered: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """About all spans of a request, and says so to those who come after it."""
    headers = {} if flags is None else {"traceparent": f"00-{TRACE}-{SPAN}-{flags}"}
    flag: list[int] = []

    def act(*_: object) -> None:
        flag.append(int(otel.get_current_span().get_span_context().trace_flags))

    async with bench(monkeypatch, tmp_path, act, sampler) as worker:
        spans = await worker.deliver(parts.body(uuid4()), headers=headers)
        (reply,) = worker.link.sent
    assert len(spans) == (2 if made else 0)
    assert (reply.properties.headers or {})["traceparent"].endswith(f"-{answered}")
    assert flag == [int(answered)]


async def test_a_trace_has_the_id_that_the_sampler_decided_by(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """So whoever samples the same share by the same rule decides alike."""
    rule = TraceIdRatioBased(0.5)
    found: list[str] = []
    async with bench(monkeypatch, tmp_path, sampler=ParentBased(rule)) as worker:
        while len(found) < 10:
            if spans := await worker.deliver(parts.body(uuid4())):
                found.append(trace_of(spans[PROCESS]))
    assert all(int(trace_id, 16) & rule.TRACE_ID_LIMIT < rule.bound for trace_id in found)


async def test_a_trace_that_would_begin_here_and_is_dropped_leaves_nothing_behind(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Neither in the reply nor in the ledger: who comes later decides anew, and may be traced."""
    body = parts.body(uuid4())
    async with bench(monkeypatch, tmp_path, sampler=ParentBased(ALWAYS_OFF)) as worker:
        assert await worker.deliver(body) == {}
        (reply,) = worker.link.sent
        assert reply.properties.headers is None
        process = (await worker.deliver(body, headers=HEADERS))[PROCESS]
    assert (trace_of(process), list(process.links)) == (TRACE, [])


async def test_a_duplicate_without_a_trace_joins_that_of_the_first_although_its_own_was_dropped(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    body = parts.body(uuid4())
    async with bench(monkeypatch, tmp_path, sampler=ParentBased(ALWAYS_OFF)) as worker:
        await worker.deliver(body, headers=HEADERS)
        process = (await worker.deliver(body))[PROCESS]
    assert (trace_of(process), parent_of(process)) == (TRACE, SPAN)


@pytest.mark.parametrize("flags", ["00", "01"])
async def test_the_tracestate_goes_on_as_it_came(
    flags: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    headers = {"traceparent": f"00-{TRACE}-{SPAN}-{flags}", "tracestate": "b=2,  a=1"}
    async with bench(monkeypatch, tmp_path) as worker:
        await worker.deliver(parts.body(uuid4()), headers=headers)
        (reply,) = worker.link.sent
    assert (reply.properties.headers or {})["tracestate"] == "b=2,  a=1"


async def test_a_handler_may_add_to_the_workers_span(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def act(*_: object) -> None:
        otel.get_current_span().set_attribute("shop.basket", 3)

    async with bench(monkeypatch, tmp_path, act) as worker:
        process = (await worker.deliver(parts.body(uuid4()), headers=HEADERS))[PROCESS]
    assert facts(process)["shop.basket"] == 3


async def test_a_handlers_spans_are_dropped_with_the_trace(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    recording: list[bool] = []

    async with bench(monkeypatch, tmp_path, sampler=ParentBased(ALWAYS_OFF)) as worker:

        async def handle(*_: object) -> None:
            with worker.tracer.start_as_current_span("quota") as span:
                recording.append(span.is_recording())
                trace_id = span.get_span_context().trace_id
            assert trace_id == otel.get_current_span().get_span_context().trace_id

        worker.worker.intakes[0].flow._binding = parts.hooked(handle)
        assert await worker.deliver(parts.body(uuid4())) == {}
    assert recording == [False]


async def test_text_that_utf8_does_not_have_costs_a_character_and_not_the_span(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async with bench(monkeypatch, tmp_path) as worker:
        worker.link.error = UnroutableError("gone \udfff")
        spans = await worker.deliver(parts.body(uuid4()), message_id="a\ud800b", reply_to="amq.gen-gone")
    assert encode_spans(list(spans.values())).ByteSize()
    assert facts(spans[PROCESS])["messaging.message.id"] == "a?b"
    assert spans["send"].status.description == "gone ?"


# ------------------------------------------------------------------------------------ the collector


class FakeExporter(SpanExporter):
    """Fails, and waits, as it is told; `names` are those of the spans that it got."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.error: Exception | None = None
        self.may_go_on = threading.Event()
        self.waits = threading.Event()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.waits.set()
        assert self.may_go_on.wait(10)
        if self.error is not None:
            raise self.error
        self.names += [span.name for span in spans]
        return SpanExportResult.SUCCESS


@pytest.fixture
def exporter(monkeypatch: pytest.MonkeyPatch) -> FakeExporter:
    """In place of the one that `traces.start` uses; the SDK's other side effects stay within the test."""
    exporter = FakeExporter()
    logger = logging.getLogger("opentelemetry")
    monkeypatch.setattr(logger, "handlers", [])
    monkeypatch.setattr(logger, "propagate", False)
    monkeypatch.setattr(otel, "set_tracer_provider", lambda _: None)
    monkeypatch.setattr(traces, "OTLPSpanExporter", lambda: exporter)
    return exporter


def started(troubles: list[str]) -> traces.Traces:
    found = traces.start(parts.worker_settings(), Names("session"), "worker-1", troubles.append)
    assert found is not None
    return found


def serve(found: traces.Traces, count: int) -> None:
    for _ in range(count):
        found.begin(parts.delivery(b"")).end()


async def test_a_collector_that_takes_too_long_holds_up_nothing_and_is_told_once(
    exporter: FakeExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "4")
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "2")
    troubles: list[str] = []
    found = started(troubles)
    serve(found, 2)
    assert await asyncio.to_thread(exporter.waits.wait, 10)
    serve(found, 20)
    await asyncio.sleep(0)
    assert troubles == ["Queue full, dropping Span."]
    exporter.may_go_on.set()
    await found.close()
    assert exporter.names == [PROCESS] * (2 + 4)


async def test_a_batch_that_fails_is_told_in_one_line_and_the_next_is_sent(
    exporter: FakeExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "1")
    troubles: list[str] = []
    found = started(troubles)
    exporter.may_go_on.set()
    exporter.error = OSError("no\nroute")
    serve(found, 1)
    while not troubles:
        await asyncio.sleep(0.001)
    assert troubles == ["Exception while exporting Span. OSError: no route"]
    exporter.error = None
    serve(found, 1)
    await found.close()
    assert exporter.names == [PROCESS]


async def test_the_last_spans_are_waited_for_only_so_long(
    exporter: FakeExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(traces, "FLUSH_SECONDS", 0.01)
    found = started([])
    serve(found, 1)
    async with asyncio.timeout(5):
        await found.close()
    assert exporter.names == []
    exporter.may_go_on.set()
