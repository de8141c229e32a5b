"""The worker's metrics: counted without a library, and written as Prometheus's text when somebody asks.

``Metrics.snapshot()`` is plain data that fits into JSON. The ops port asks each process for one, and answers
``render(merge(snapshots))``. What a process has counted must stay in the sum when it is gone: go on merging
``counted(its last snapshot)``, which is the snapshot without the gauges.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Literal

from session_contracts.errors import ERRORS
from session_worker.telemetry.events import (
    AttemptEnded,
    LedgerCommitted,
    ReplyConfirmed,
    ReplyUndeliverable,
    RequestFinished,
    RequestParked,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from prometheus_client.core import Metric as Family

    from session_worker.telemetry.events import Listeners

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""The content type of what ``render`` returns."""

Snapshot = dict[str, list[tuple[list[str], list[float]]]]
"""By metric: label values, and numbers that are summed over processes. A counter or gauge has one number. A
histogram has the count of each bucket, the last one for all larger values, and then the sum of all values."""

SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
MINUTES = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0)
STEPS = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0)


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric as Prometheus sees it. ``bounds`` are the upper ends of a histogram's buckets."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    meaning: str
    labels: tuple[str, ...] = ()
    bounds: tuple[float, ...] = ()


OPERATION = ("operation",)
REQUESTS = Metric(
    "session_worker_requests_total",
    "counter",
    "Requests that ended, by outcome and by the error code that was answered (empty: completed).",
    ("operation", "outcome", "error_code"),
)
CRITICAL_TIME = Metric(
    "session_worker_critical_time_seconds",
    "histogram",
    "From publishing a request to the broker's confirm of its reply; without refused and replayed requests.",
    OPERATION,
    bounds=MINUTES,
)
QUEUE_WAIT = Metric(
    "session_worker_queue_wait_seconds",
    "histogram",
    "From publishing a request to its first attempt, if the request says when it was published.",
    OPERATION,
    bounds=MINUTES,
)
HANDLER = Metric(
    "session_worker_handler_seconds",
    "histogram",
    "The handler's time in one attempt, immediate retries included.",
    OPERATION,
    bounds=SECONDS,
)
ATTEMPTS = Metric(
    "session_worker_attempts_total", "counter", "Attempts in which the handler ran to its end.", OPERATION
)
REPLAYED = Metric(
    "session_worker_replayed_total", "counter", "Duplicates that got the stored response.", OPERATION
)
PARKED = Metric(
    "session_worker_parked_total",
    "counter",
    "Requests parked as dead letters, by error code.",
    ("operation", "reason"),
)
UNDELIVERABLE = Metric(
    "session_worker_replies_undeliverable_total", "counter", "Replies that could not be delivered.", OPERATION
)
COMMIT = Metric(
    "session_worker_ledger_commit_seconds",
    "histogram",
    "The time of one transaction of the ledger, outages included.",
    bounds=SECONDS,
)
BATCH = Metric(
    "session_worker_ledger_batch_size", "histogram", "Steps that shared one transaction.", bounds=STEPS
)
INFLIGHT = Metric(
    "session_worker_inflight", "gauge", "Deliveries that have arrived and are not settled yet.", OPERATION
)
CONNECTED = Metric("session_worker_broker_connected", "gauge", "Processes with a link to the broker.")
CONSUMING = Metric("session_worker_consumer_active", "gauge", "Processes that ask for deliveries.")

METRICS = (
    *(REQUESTS, CRITICAL_TIME, QUEUE_WAIT, HANDLER, ATTEMPTS, REPLAYED, PARKED, UNDELIVERABLE),
    *(COMMIT, BATCH, INFLIGHT, CONNECTED, CONSUMING),
)


class Histogram:
    """Counts by bucket."""

    __slots__ = ("_bounds", "_counts", "_sum")

    def __init__(self, metric: Metric) -> None:
        self._bounds = metric.bounds
        self._counts = [0] * (len(metric.bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    @property
    def numbers(self) -> list[float]:
        return [*self._counts, self._sum]


class _Counts:
    """What is counted of the requests of one operation."""

    __slots__ = ("attempts", "critical", "handler", "parked", "replayed", "requests", "undeliverable", "wait")

    def __init__(self) -> None:
        self.requests: dict[tuple[str, str | None], int] = {}
        self.parked: dict[str, int] = {code.value: 0 for code, info in ERRORS.items() if info.parked}
        self.attempts = self.replayed = self.undeliverable = 0
        self.critical, self.wait, self.handler = map(Histogram, (CRITICAL_TIME, QUEUE_WAIT, HANDLER))


class Metrics:
    """The metrics of one process. A gauge is asked for its value when a snapshot is taken.

    ``inflight``: deliveries, by the name of each operation that is served.
    """

    def __init__(
        self,
        *,
        inflight: Callable[[], Mapping[str, float]],
        broker_connected: Callable[[], float],
        consumer_active: Callable[[], float],
    ) -> None:
        self._inflight = inflight
        self._gauges = {CONNECTED: broker_connected, CONSUMING: consumer_active}
        self._of: defaultdict[str, _Counts] = defaultdict(_Counts)
        self._commit, self._batch = Histogram(COMMIT), Histogram(BATCH)

    @property
    def listeners(self) -> Listeners:
        return {
            RequestFinished: self._finished,
            AttemptEnded: self._attempted,
            ReplyConfirmed: self._confirmed,
            ReplyUndeliverable: self._not_delivered,
            RequestParked: self._park,
            LedgerCommitted: self._committed,
        }

    def snapshot(self) -> Snapshot:
        """All metrics as they are now. What has not happened yet counts as 0: a rate needs two values."""
        inflight = self._inflight()
        by_name = {name: self._of[name] for name in sorted({*inflight, *self._of})}
        return {
            REQUESTS.name: [
                ([name, outcome, code or ""], [count])
                for name, of in by_name.items()
                for (outcome, code), count in of.requests.items()
            ],
            PARKED.name: [
                ([name, reason], [count])
                for name, of in by_name.items()
                for reason, count in of.parked.items()
            ],
            ATTEMPTS.name: [([name], [of.attempts]) for name, of in by_name.items()],
            REPLAYED.name: [([name], [of.replayed]) for name, of in by_name.items()],
            UNDELIVERABLE.name: [([name], [of.undeliverable]) for name, of in by_name.items()],
            CRITICAL_TIME.name: [([name], of.critical.numbers) for name, of in by_name.items()],
            QUEUE_WAIT.name: [([name], of.wait.numbers) for name, of in by_name.items()],
            HANDLER.name: [([name], of.handler.numbers) for name, of in by_name.items()],
            COMMIT.name: [([], self._commit.numbers)],
            BATCH.name: [([], self._batch.numbers)],
            INFLIGHT.name: [([name], [float(count)]) for name, count in inflight.items()],
            **{gauge.name: [([], [float(now())])] for gauge, now in self._gauges.items()},
        }

    def _finished(self, event: RequestFinished) -> None:
        of = self._of[event.operation]
        key = (event.outcome, event.error_code)
        of.requests[key] = of.requests.get(key, 0) + 1
        if event.outcome == "replayed":
            of.replayed += 1

    def _attempted(self, event: AttemptEnded) -> None:
        of = self._of[event.operation]
        of.attempts += 1
        of.handler.observe(event.seconds)
        if event.queue_wait is not None:
            of.wait.observe(event.queue_wait)

    def _confirmed(self, event: ReplyConfirmed) -> None:
        if event.critical_seconds is not None:
            self._of[event.operation].critical.observe(event.critical_seconds)

    def _not_delivered(self, event: ReplyUndeliverable) -> None:
        self._of[event.operation].undeliverable += 1

    def _park(self, event: RequestParked) -> None:
        self._of[event.operation].parked[event.error_code] += 1

    def _committed(self, event: LedgerCommitted) -> None:
        self._commit.observe(event.seconds)
        self._batch.observe(event.steps)


def merge(snapshots: Iterable[Snapshot]) -> Snapshot:
    """Add up the snapshots of several processes, gauges included."""
    merged: dict[str, dict[tuple[str, ...], list[float]]] = {}
    for snapshot in snapshots:
        for name, rows in snapshot.items():
            sums = merged.setdefault(name, {})
            for labels, numbers in rows:
                before = sums.get(tuple(labels), [0.0] * len(numbers))
                sums[tuple(labels)] = [old + new for old, new in zip(before, numbers, strict=True)]
    return {name: [(list(labels), sums) for labels, sums in rows.items()] for name, rows in merged.items()}


def counted(snapshot: Snapshot) -> Snapshot:
    """The part of a snapshot that still holds when its process is gone: all but the gauges."""
    gauges = {metric.name for metric in METRICS if metric.kind == "gauge"}
    return {name: rows for name, rows in snapshot.items() if name not in gauges}


def render(snapshot: Snapshot) -> bytes:
    """Write a snapshot as Prometheus's text (``CONTENT_TYPE``)."""
    from prometheus_client import CollectorRegistry, generate_latest

    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(snapshot))
    return generate_latest(registry)


class _Collector:
    """The snapshot as prometheus_client wants it."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterable[Family]:
        return [_family(metric, self._snapshot.get(metric.name, [])) for metric in METRICS]

    def describe(self) -> Iterable[Family]:
        return ()


def _family(metric: Metric, rows: Iterable[tuple[list[str], list[float]]]) -> Family:
    from prometheus_client import core

    kinds: dict[str, Any] = {
        "counter": core.CounterMetricFamily,
        "gauge": core.GaugeMetricFamily,
        "histogram": core.HistogramMetricFamily,
    }
    family: Family = kinds[metric.kind](metric.name, metric.meaning, labels=metric.labels)
    for labels, numbers in rows:
        if metric.kind == "histogram":
            ends = [*map(str, metric.bounds), "+Inf"]
            buckets = list(zip(ends, accumulate(numbers[:-1]), strict=True))
            family.add_metric(labels, buckets=buckets, sum_value=numbers[-1])  # type: ignore[attr-defined]
        else:
            family.add_metric(labels, numbers[0])  # type: ignore[attr-defined]
    return family
