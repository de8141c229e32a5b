"""The numbers add up, within a process and over several, and Prometheus can read them."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import TYPE_CHECKING
from uuid import UUID

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client import Histogram as TheirHistogram
from prometheus_client.parser import text_string_to_metric_families

from session_contracts import ErrorCode
from session_worker.telemetry import metrics
from session_worker.telemetry.events import (
    AttemptEnded,
    Emit,
    LedgerCommitted,
    ReplyConfirmed,
    ReplyUndeliverable,
    RequestFinished,
    RequestParked,
    emitter,
)
from session_worker.telemetry.metrics import METRICS, Metrics, Snapshot

if TYPE_CHECKING:
    from collections.abc import Callable

REQUEST_ID = UUID(int=7)
NAME = "create_session"


def _process() -> tuple[Emit, Callable[[], Snapshot]]:
    numbers = Metrics(
        inflight=lambda: {NAME: 3}, broker_connected=lambda: True, consumer_active=lambda: False
    )
    return emitter(numbers.listeners), numbers.snapshot


def _sample(text: bytes, name: str, **labels: str) -> float:
    found = [
        sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
        if sample.name == name and sample.labels == labels
    ]
    assert len(found) == 1, (name, labels)
    return found[0]


def _busy_day() -> Snapshot:
    emit, snapshot = _process()
    for seconds in (0.003, 0.2):
        emit(AttemptEnded(REQUEST_ID, 1, seconds, seconds * 2, NAME))
        emit(RequestFinished(REQUEST_ID, 1, "completed", None, operation=NAME))
        emit(ReplyConfirmed(REQUEST_ID, 1, seconds * 3, NAME))
    emit(AttemptEnded(REQUEST_ID, 2, 99.0, None, NAME))
    emit(RequestFinished(REQUEST_ID, 2, "failed", ErrorCode.HANDLER_FAILED, operation=NAME))
    emit(RequestParked(REQUEST_ID, 2, ErrorCode.HANDLER_FAILED, "why", NAME))
    emit(RequestFinished(REQUEST_ID, 1, "replayed", None, operation=NAME))
    emit(ReplyConfirmed(REQUEST_ID, 1, None, NAME))
    emit(ReplyUndeliverable(REQUEST_ID, 1, "gone", "why", NAME))
    emit(LedgerCommitted(20, 0.004))
    return snapshot()


def test_each_event_counts_where_it_belongs() -> None:
    text = metrics.render(_busy_day())
    total = "session_worker_requests_total"
    assert _sample(text, total, outcome="completed", error_code="", operation=NAME) == 2
    assert _sample(text, total, outcome="failed", error_code="handler_failed", operation=NAME) == 1
    assert _sample(text, total, outcome="replayed", error_code="", operation=NAME) == 1
    assert _sample(text, "session_worker_replayed_total", operation=NAME) == 1
    assert _sample(text, "session_worker_attempts_total", operation=NAME) == 3
    assert _sample(text, "session_worker_parked_total", reason="handler_failed", operation=NAME) == 1
    assert _sample(text, "session_worker_parked_total", reason="unreadable", operation=NAME) == 0
    assert _sample(text, "session_worker_replies_undeliverable_total", operation=NAME) == 1
    assert _sample(text, "session_worker_handler_seconds_bucket", le="0.005", operation=NAME) == 1
    assert _sample(text, "session_worker_handler_seconds_bucket", le="60.0", operation=NAME) == 2
    assert _sample(text, "session_worker_handler_seconds_bucket", le="+Inf", operation=NAME) == 3
    assert _sample(text, "session_worker_handler_seconds_sum", operation=NAME) == pytest.approx(99.203)
    assert _sample(text, "session_worker_queue_wait_seconds_count", operation=NAME) == 2
    assert _sample(text, "session_worker_critical_time_seconds_count", operation=NAME) == 2
    assert _sample(text, "session_worker_ledger_batch_size_bucket", le="10.0") == 0
    assert _sample(text, "session_worker_ledger_batch_size_bucket", le="20.0") == 1
    assert _sample(text, "session_worker_ledger_commit_seconds_count") == 1
    assert _sample(text, "session_worker_inflight", operation=NAME) == 3
    assert _sample(text, "session_worker_broker_connected") == 1
    assert _sample(text, "session_worker_consumer_active") == 0


def test_several_processes_give_one_sum_after_a_way_through_json() -> None:
    """Labels that only one of them has are there too."""
    quiet = _process()[1]()
    told = [json.loads(json.dumps(snapshot)) for snapshot in (_busy_day(), _busy_day(), quiet)]
    merged = metrics.merge(told)
    assert metrics.merge([merged]) == merged
    text = metrics.render(merged)
    assert (
        _sample(text, "session_worker_requests_total", outcome="completed", error_code="", operation=NAME)
        == 4
    )
    assert _sample(text, "session_worker_handler_seconds_bucket", le="0.005", operation=NAME) == 2
    assert _sample(text, "session_worker_handler_seconds_count", operation=NAME) == 6
    assert _sample(text, "session_worker_inflight", operation=NAME) == 9


def test_what_a_process_counted_outlives_it_but_what_it_was_does_not() -> None:
    text = metrics.render(metrics.merge([metrics.counted(_busy_day()), _process()[1]()]))
    assert (
        _sample(text, "session_worker_requests_total", outcome="completed", error_code="", operation=NAME)
        == 2
    )
    assert _sample(text, "session_worker_broker_connected") == 1
    assert _sample(text, "session_worker_inflight", operation=NAME) == 3


def test_a_histogram_is_written_as_the_library_writes_its_own() -> None:
    values = [0.0, 0.0005, 0.0006, 60.0, 61.0]
    registry = CollectorRegistry()
    handler = metrics.HANDLER
    theirs = TheirHistogram(
        handler.name, handler.meaning, handler.labels, buckets=handler.bounds, registry=registry
    ).labels(NAME)
    emit, snapshot = _process()
    for value in values:
        theirs.observe(value)
        emit(AttemptEnded(REQUEST_ID, 1, value, None, NAME))

    def lines(text: bytes) -> set[str]:
        found = text.decode().splitlines()
        return {line for line in found if metrics.HANDLER.name in line and "_created" not in line}

    assert lines(metrics.render(snapshot())) == lines(generate_latest(registry))


def test_a_snapshot_has_every_metric_and_no_other() -> None:
    assert _process()[1]().keys() == {metric.name for metric in METRICS}
    assert b"# EOF" not in metrics.render({})  # an empty one can be asked for as well


def test_labels_have_values_from_closed_lists_only() -> None:
    """An event's operation is that of the queue, never what a body says."""
    labels = {label for metric in METRICS for label in metric.labels}
    assert labels == {"operation", "outcome", "error_code", "reason"}


def test_each_operation_is_counted_by_itself_from_zero_on() -> None:
    numbers = Metrics(
        inflight=lambda: {"get_session": 1, "extend_session": 0},
        broker_connected=lambda: True,
        consumer_active=lambda: True,
    )
    emit = emitter(numbers.listeners)
    emit(AttemptEnded(REQUEST_ID, 1, 2.0, None, "extend_session"))
    text = metrics.render(numbers.snapshot())
    for operation, count in (("get_session", 0), ("extend_session", 1)):
        assert _sample(text, "session_worker_attempts_total", operation=operation) == count
        assert _sample(text, "session_worker_handler_seconds_sum", operation=operation) == 2 * count
        parked = {"operation": operation, "reason": "handler_failed"}
        assert _sample(text, "session_worker_parked_total", **parked) == 0
    assert _sample(text, "session_worker_inflight", operation="get_session") == 1


def test_buckets_grow() -> None:
    for metric in METRICS:
        assert all(low < high for low, high in pairwise(metric.bounds))
        assert bool(metric.bounds) == (metric.kind == "histogram")
