"""Traces of real workers, as a collector gets them by OTLP: what is in them, and what holds them together."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

from session_worker.sandbox.workspace import free_port
from tests.broker.test_dead_letters import redrive
from tests.support.collector import Collector
from tests.support.lab import ROOT, answer, code_of, request
from tests.support.waiting import soon

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.lab import Lab
    from tests.support.worker_process import WorkerProcess

HANDLER = "tests.support.handlers.tracing:traced"
TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACEPARENT = f"00-{TRACE}-{SPAN}-01"
PROCESS, SEND = "process session.create", "send"
PRODUCER, CONSUMER = 4, 5
"""Kinds of spans, as OTLP counts them."""


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as collector:
        yield collector


def tracing(lab: Lab, collector: Collector, **settings: Any) -> WorkerProcess:
    return lab.worker(
        env=collector.env, **{"handler": HANDLER, "traces": True, "log_level": "debug", **settings}
    )


def lines_about(worker: WorkerProcess, request_id: str) -> list[dict[str, Any]]:
    return [line for line in list(worker.logs) if line.get("request_id") == request_id]


def test_a_request_its_handlers_span_and_its_answer_are_one_trace(lab: Lab, collector: Collector) -> None:
    """Under the requester's span; by the attributes of the conventions; the log names the trace."""
    worker = tracing(lab, collector)
    request_id = str(uuid4())
    body = request(request_id)
    with lab.requester() as requester:
        reply = requester.ask(
            body,
            headers={"traceparent": TRACEPARENT, "tracestate": "vendor=7"},
            message_id="message-1",
            correlation_id="call-1",
        )
    (process,), (send,), (quota,) = map(collector.wait, (PROCESS, SEND, "quota"))
    assert {span.trace_id for span in (process, send, quota)} == {TRACE}
    assert (process.parent, process.kind) == (SPAN, CONSUMER)
    assert (send.parent, send.kind) == (process.span_id, PRODUCER)
    assert quota.parent == process.span_id
    broker = {
        "messaging.system": "rabbitmq",
        "server.address": lab.url.rpartition("@")[2].partition(":")[0],
        "server.port": int(lab.url.rpartition("@")[2].partition(":")[2].partition("/")[0]),
    }
    assert process.attributes == broker | {
        "messaging.operation.type": "process",
        "messaging.operation.name": "process",
        "messaging.destination.name": "session.create",
        "messaging.message.id": "message-1",
        "messaging.message.conversation_id": "call-1",
        "messaging.rabbitmq.message.delivery_tag": 1,
        "session_worker.request_id": request_id,
        "session_worker.operation": "create_session",
        "session_worker.attempt": 1,
        "session_worker.outcome": "completed",
    }
    assert process.events == ("attempt began", "attempt ended", "ack")
    assert process.error is None
    assert 0 < send.nanoseconds < process.nanoseconds
    assert send.attributes == broker | {
        "messaging.operation.type": "send",
        "messaging.operation.name": "send",
        "messaging.destination.name": requester.reply_to,
        "messaging.message.id": reply.properties.message_id,
        "messaging.message.conversation_id": "call-1",
    }
    assert reply.headers == {"traceparent": f"00-{TRACE}-{send.span_id}-01", "tracestate": "vendor=7"}
    assert process.resource["service.name"] == "session-worker"
    assert process.resource["service.instance.id"] == worker.logs[0]["worker_id"]
    lines = lines_about(worker, request_id)
    assert {line["event"] for line in lines} >= {"attempt ended", "request finished", "reply confirmed"}
    assert {line["trace_id"] for line in lines} == {TRACE}


def test_a_retry_continues_the_trace_that_the_worker_began(lab: Lab, collector: Collector) -> None:
    """Nobody gave one: the copy that waits carries it."""
    tracing(lab, collector)
    with lab.requester() as requester:
        assert code_of(requester.ask(request(fails=1))) is None
    first, second = collector.wait(PROCESS, 2)
    (copy,) = collector.wait("send session.create.retry.1s")
    assert (first.parent, copy.parent, second.parent) == ("", first.span_id, copy.span_id)
    assert {span.trace_id for span in collector.spans} == {first.trace_id}
    assert first.attributes["session_worker.outcome"] == "retry_later"
    assert first.attributes["error.type"] == "handler_failed"
    assert first.error is not None
    assert "attempt 1 fails" in first.error
    assert second.attributes["session_worker.attempt"] == 2
    assert "error.type" not in second.attributes


def test_a_worker_that_takes_a_request_over_continues_its_trace(
    lab_on_each_ledger: Lab, collector: Collector
) -> None:
    """The dead one's spans are lost with it, and the message says nothing: the ledger knows."""
    lab = lab_on_each_ledger
    dying = tracing(lab, collector)
    with lab.requester() as requester:
        requester.send(request(gate=str(lab.gate)))
        lab.running(1)
        dying.kill()
        lab.open_gate()
        tracing(lab, collector, holder_timeout=1)
        (reply,) = requester.collect(1, 30)
    (finishing,) = collector.wait("quota")
    process = next(span for span in collector.wait(PROCESS) if "attempt began" in span.events)
    assert finishing.parent == process.span_id
    assert {span.trace_id for span in collector.spans} == {process.trace_id}
    ours = {span.span_id for span in collector.spans}
    assert all(span.parent for span in collector.spans)
    assert len({span.parent for span in collector.spans} - ours) == 1  # the span that died
    assert reply.headers["traceparent"].split("-")[1] == process.trace_id


def test_an_operators_redrive_continues_the_trace(lab: Lab, collector: Collector) -> None:
    bug = lab.folder / "bug"
    bug.touch()
    tracing(lab, collector)
    with lab.requester() as requester:
        requester.send(request(bug=str(bug)), headers={"traceparent": TRACEPARENT})
        requester.collect(1)
        lab.holds("session.create.dead", 1)
        bug.unlink()
        assert sum(redrive(lab).values()) == 1
        assert code_of(requester.collect(2)[1]) is None
    failed, completed = collector.wait(PROCESS, 2)
    assert (failed.trace_id, failed.parent) == (completed.trace_id, completed.parent) == (TRACE, SPAN)
    assert failed.attributes["session_worker.outcome"] == "failed"
    assert failed.attributes["error.type"] == "handler_failed"
    (parked,) = collector.wait("send session.create.dead")
    assert parked.parent == failed.span_id


def test_a_collector_that_is_away_costs_no_request_and_a_line(lab: Lab) -> None:
    """No traceback, no second line within the minute; the worker ends in time, and in order."""
    nowhere = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{free_port()}"}
    worker = lab.worker(env=nowhere, handler=HANDLER, traces=True)
    with lab.requester() as requester:
        for _ in range(20):
            requester.send(request())
        assert {code_of(reply) for reply in requester.collect(20)} == {None}
        told = worker.wait_for("traces not taken")
        requester.send(request())
        requester.collect(21)
    worker.terminate()
    assert worker.wait(20) == 0
    assert "refused" in told["reason"]
    assert told["level"] == "warning"
    assert [line["event"] for line in worker.logs].count("traces not taken") == 1
    assert len(worker.logs) == len(worker.output)  # all of it JSON, hence no traceback


def test_a_worker_that_stops_sends_its_last_spans(lab: Lab, collector: Collector) -> None:
    worker = tracing(lab, collector)
    with lab.requester() as requester:
        requester.ask(request())
    worker.terminate()
    assert worker.wait() == 0
    assert {span.name for span in collector.spans} == {PROCESS, SEND, "quota"}


def test_a_trace_that_is_not_sampled_goes_on_without_spans(lab: Lab, collector: Collector) -> None:
    lab.worker(env=collector.env | {"OTEL_TRACES_SAMPLER": "always_off"}, handler=HANDLER, traces=True)
    with lab.requester() as requester:
        reply = requester.ask(request(), headers={"traceparent": TRACEPARENT})
    _, trace_id, _, flags = reply.headers["traceparent"].split("-")
    assert (trace_id, flags) == (TRACE, "00")
    lab.workers[0].send_signal(signal.SIGTERM)
    assert lab.workers[0].wait() == 0
    assert collector.spans == []


def test_without_traces_a_trace_goes_through_unchanged(lab: Lab) -> None:
    """To the copies and to the answer; the log names it, and names none where there is none."""
    worker = lab.worker(max_attempts=2)
    traced, plain = str(uuid4()), str(uuid4())
    headers = {"traceparent": TRACEPARENT, "tracestate": "vendor=7"}
    with lab.requester() as requester:
        reply = requester.ask(request(traced, fails=2), headers=headers)
        assert answer(reply)["metadata"]["attempts"] == 2
        assert reply.headers == headers
        assert requester.ask(request(plain)).headers == {}
    (letter,) = lab.take("session.create.dead")
    assert headers.items() <= letter.headers.items()
    assert {line["trace_id"] for line in lines_about(worker, traced)} == {TRACE}
    assert not any("trace_id" in line for line in lines_about(worker, plain))


@pytest.mark.parametrize(
    ("env", "reason"),
    [
        ({}, "traces: OpenTelemetry is not installed; install session-worker[otel], or leave traces off"),
        (
            {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
            "OTEL_EXPORTER_OTLP_PROTOCOL: this worker knows http/protobuf",
        ),
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, "OTEL_TRACES_EXPORTER: this worker knows otlp"),
        ({"OTEL_PYTHON_CONTEXT": "foo"}, "OTEL_PYTHON_CONTEXT: there is contextvars_context, not foo"),
    ],
)
def test_traces_that_cannot_be_made_are_a_sentence_at_the_start(
    lab: Lab, env: dict[str, str], reason: str
) -> None:
    path = str(ROOT)
    if not env:  # what is not installed: a package of that name without the SDK in it
        (lab.folder / "opentelemetry").mkdir()
        (lab.folder / "opentelemetry" / "__init__.py").touch()
        path = f"{lab.folder}:{ROOT}"
    worker = lab.worker(wait=False, traces=True, env={"PYTHONPATH": path} | env)
    assert worker.wait() == 1
    (line,) = worker.output
    assert reason in line


def test_opentelemetrys_own_switch_turns_traces_off(lab: Lab, collector: Collector) -> None:
    lab.worker(env=collector.env | {"OTEL_SDK_DISABLED": "true"}, traces=True)
    with lab.requester() as requester:
        assert requester.ask(request(), headers={"traceparent": TRACEPARENT}).headers == {
            "traceparent": TRACEPARENT
        }
    lab.workers[0].terminate()
    assert lab.workers[0].wait() == 0
    soon(lambda: collector.spans == [])
