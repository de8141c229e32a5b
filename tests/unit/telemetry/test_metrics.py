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


def _process() -> tuple[Emit, Callable[[], Snapshot]]:
    numbers = Metrics(inflight=lambda: 3, broker_connected=lambda: True, consumer_active=lambda: False)
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
        emit(AttemptEnded(REQUEST_ID, 1, seconds, seconds * 2))
        emit(RequestFinished(REQUEST_ID, 1, "completed", None))
        emit(ReplyConfirmed(REQUEST_ID, 1, seconds * 3))
    emit(AttemptEnded(REQUEST_ID, 2, 99.0, None))
    emit(RequestFinished(REQUEST_ID, 2, "failed", ErrorCode.HANDLER_FAILED))
    emit(RequestParked(REQUEST_ID, 2, ErrorCode.HANDLER_FAILED, "why"))
    emit(RequestFinished(REQUEST_ID, 1, "replayed", None))
    emit(ReplyConfirmed(REQUEST_ID, 1, None))
    emit(ReplyUndeliverable(REQUEST_ID, 1, "gone", "why"))
    emit(LedgerCommitted(20, 0.004))
    return snapshot()


def test_each_event_counts_where_it_belongs() -> None:
    text = metrics.render(_busy_day())
    total = "session_worker_requests_total"
    assert _sample(text, total, outcome="completed", error_code="") == 2
    assert _sample(text, total, outcome="failed", error_code="handler_failed") == 1
    assert _sample(text, total, outcome="replayed", error_code="") == 1
    assert _sample(text, "session_worker_replayed_total") == 1
    assert _sample(text, "session_worker_attempts_total") == 3
    assert _sample(text, "session_worker_parked_total", reason="handler_failed") == 1
    assert _sample(text, "session_worker_parked_total", reason="unreadable") == 0
    assert _sample(text, "session_worker_replies_undeliverable_total") == 1
    assert _sample(text, "session_worker_handler_seconds_bucket", le="0.005") == 1
    assert _sample(text, "session_worker_handler_seconds_bucket", le="60.0") == 2
    assert _sample(text, "session_worker_handler_seconds_bucket", le="+Inf") == 3
    assert _sample(text, "session_worker_handler_seconds_sum") == pytest.approx(99.203)
    assert _sample(text, "session_worker_queue_wait_seconds_count") == 2
    assert _sample(text, "session_worker_critical_time_seconds_count") == 2
    assert _sample(text, "session_worker_ledger_batch_size_bucket", le="10.0") == 0
    assert _sample(text, "session_worker_ledger_batch_size_bucket", le="20.0") == 1
    assert _sample(text, "session_worker_ledger_commit_seconds_count") == 1
    assert _sample(text, "session_worker_inflight") == 3
    assert _sample(text, "session_worker_broker_connected") == 1
    assert _sample(text, "session_worker_consumer_active") == 0


def test_several_processes_give_one_sum_after_a_way_through_json() -> None:
    """Labels that only one of them has are there too."""
    quiet = _process()[1]()
    told = [json.loads(json.dumps(snapshot)) for snapshot in (_busy_day(), _busy_day(), quiet)]
    merged = metrics.merge(told)
    assert metrics.merge([merged]) == merged
    text = metrics.render(merged)
    assert _sample(text, "session_worker_requests_total", outcome="completed", error_code="") == 4
    assert _sample(text, "session_worker_handler_seconds_bucket", le="0.005") == 2
    assert _sample(text, "session_worker_handler_seconds_count") == 6
    assert _sample(text, "session_worker_inflight") == 9


def test_what_a_process_counted_outlives_it_but_what_it_was_does_not() -> None:
    text = metrics.render(metrics.merge([metrics.counted(_busy_day()), _process()[1]()]))
    assert _sample(text, "session_worker_requests_total", outcome="completed", error_code="") == 2
    assert _sample(text, "session_worker_broker_connected") == 1
    assert _sample(text, "session_worker_inflight") == 3


def test_a_histogram_is_written_as_the_library_writes_its_own() -> None:
    values = [0.0, 0.0005, 0.0006, 60.0, 61.0]
    registry = CollectorRegistry()
    theirs = TheirHistogram(
        metrics.HANDLER.name, metrics.HANDLER.meaning, buckets=metrics.HANDLER.bounds, registry=registry
    )
    emit, snapshot = _process()
    for value in values:
        theirs.observe(value)
        emit(AttemptEnded(REQUEST_ID, 1, value, None))

    def lines(text: bytes) -> set[str]:
        found = text.decode().splitlines()
        return {line for line in found if metrics.HANDLER.name in line and "_created" not in line}

    assert lines(metrics.render(snapshot())) == lines(generate_latest(registry))


def test_a_snapshot_has_every_metric_and_no_other() -> None:
    assert _process()[1]().keys() == {metric.name for metric in METRICS}
    assert b"# EOF" not in metrics.render({})  # an empty one can be asked for as well


def test_labels_have_values_from_closed_lists_only() -> None:
    assert {label for metric in METRICS for label in metric.labels} == {"outcome", "error_code", "reason"}


def test_buckets_grow() -> None:
    for metric in METRICS:
        assert all(low < high for low, high in pairwise(metric.bounds))
        assert bool(metric.bounds) == (metric.kind == "histogram")
