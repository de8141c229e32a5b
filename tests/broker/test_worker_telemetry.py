"""What a worker says of itself, after real requests have come to every kind of end: metrics, log, events."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from prometheus_client.parser import text_string_to_metric_families

from session_worker.sandbox.workspace import free_port
from session_worker.telemetry.events import EVENTS
from session_worker.telemetry.log import LINES
from session_worker.telemetry.metrics import METRICS
from tests.support.lab import ROOT, code_of, lock_ledger, open_lab, request, send
from tests.support.ops import Ops
from tests.support.waiting import soon

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.external_rabbitmq import ExternalRabbitMQ
    from tests.support.lab import Lab
    from tests.support.requester import Requester
    from tests.support.servers import RabbitMQ


SECRET_TITLE = "a title that nobody else may read"
ENDS = {
    ("completed", ""): 4,  # two plain ones, one after a failed attempt, one whose answer nobody takes
    ("rejected", "rejected"): 1,
    ("expired", "expired"): 1,
    ("failed", "handler_failed"): 1,
    ("failed", "handler_timeout"): 1,
    ("refused", "unreadable"): 1,
    ("refused", "idempotency_conflict"): 1,
    ("replayed", ""): 2,
    ("replayed", "rejected"): 1,
}
"""How the requests of `_send_all` end: outcome, error code, how many."""
ELSEWHERE = {
    "LinkFailed": "tests/broker/test_worker_lifetime.py",
    "QueueOwnerUnknown": "tests/broker/test_marker.py",
    "EntranceNotKept": "tests/broker/test_narrow_limits.py",
    "RequestNotParked": "tests/broker/test_worker_outcomes.py",
    "CopyNotTaken": "tests/broker/test_worker_outcomes.py",
    "RequestTakenOver": "tests/broker/test_worker_once.py",
    "OutcomeNotRecorded": "tests/unit/requests/test_flow.py",
    "DeliveryFailed": "tests/unit/runtime/test_intake.py",
    "LedgerNotPruned": "tests/ledger/test_pruning.py",
    "LifespanFailed": "tests/broker/test_worker_operations.py",
    "LifespanNotLeft": "tests/broker/test_worker_operations.py",
    "TracesNotTaken": "tests/broker/test_worker_traces.py",
}
"""Events that take more than requests to come about, and the tests that see them."""


@dataclass
class Day:
    """A worker's whole life; the samples of its metrics when all was done and quiet."""

    lines: list[dict[str, Any]] = field(default_factory=list)
    output: str = ""
    samples: dict[tuple[str, tuple[tuple[str, str], ...]], float] = field(default_factory=dict)
    plain_id: str = ""
    passwords: set[str] = field(default_factory=set)

    def metric(self, name: str, **labels: str) -> float:
        """The sum of the samples with these labels, of whatever operation; there must be one."""
        found = [
            value
            for (sample, given), value in self.samples.items()
            if sample == name and labels.items() <= dict(given).items()
        ]
        assert found, name
        return sum(found)


def _send_all(lab: Lab, requester: Requester) -> str:
    """One request at least for each end; the id of a plain one. Returns when all is answered and quiet."""
    plain, rejected, undeliverable = str(uuid4()), str(uuid4()), str(uuid4())
    for body in (
        request(plain, SECRET_TITLE),
        request(),
        request(fails=1),
        request(fails=99),
        request(do="hang"),
        request(rejected, do="reject"),
    ):
        requester.send(body)
    requester.send(request(undeliverable), reply_to="amq.gen-long-gone")
    requester.send(request(), expiration="0")
    requester.collect(7, 30)
    for body in (
        request(plain, SECRET_TITLE),
        request(plain, SECRET_TITLE),
        request(rejected, do="reject"),
        request(plain, "another title"),
    ):
        requester.send(body)
    requester.send(f'{{"broken": "{SECRET_TITLE}'.encode(), correlation_id="garbage")
    requester.collect(7 + 5, 30)
    lab.noted(undeliverable, "undeliverable")
    lab.take("session.create.dead", 4)
    lab.quiet()
    return plain


@pytest.fixture(scope="module")
def day(rabbitmq: RabbitMQ | ExternalRabbitMQ, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Day]:
    """Requests of every kind, an outage of the ledger, a lost connection, and a stop with work in hand."""
    folder = tmp_path_factory.mktemp("day")
    ops = Ops(free_port())
    day = Day()
    with open_lab(rabbitmq, f"sqlite:///{folder / 'ledger.db'}", folder) as lab:
        worker = lab.worker(
            max_attempts=2,
            handler_timeout=1,
            shutdown_grace=1,
            retention="30d",
            log_level="debug",
            ops_port=ops.port,
        )
        soon(ops.ready)
        with lab.requester() as requester:
            day.plain_id = _send_all(lab, requester)
            _scrape(ops, day)
            unlock = lock_ledger(lab.ledger_url)
            try:
                requester.send(request())
                worker.wait_for("consuming paused")
            finally:
                unlock()
            worker.wait_for("consuming again")
            _send_and_run(lab, requester, gate=str(lab.gate))
        lab.drop_connections()
        worker.wait_for("worker up", count=2)
        lab.open_gate()
        worker.wait_for("delivery left to the broker")
        lab.quiet()
        with lab.requester() as requester:
            _send_and_run(lab, requester, do="stubborn")
            assert ops.metric("session_worker_inflight") == 1
            worker.terminate()
            assert worker.wait() == 0
        day.lines, day.output = worker.logs, "".join(worker.output)
        day.passwords = {lab.url.partition("://")[2].partition("@")[0]}
        yield day


def _send_and_run(lab: Lab, requester: Requester, **script: str) -> None:
    request_id = str(uuid4())
    requester.send(request(request_id, None, **script))
    soon(lambda: lab.runs()[request_id] > 0)


def _scrape(ops: Ops, day: Day) -> None:
    text = ops.get("/metrics")[1]
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            day.samples[sample.name, tuple(sorted(sample.labels.items()))] = sample.value


# --------------------------------------------------------------------------------------- metrics


def test_requests_are_counted_by_how_they_ended(day: Day) -> None:
    counted = {
        (dict(labels)["outcome"], dict(labels)["error_code"]): value
        for (name, labels), value in day.samples.items()
        if name == "session_worker_requests_total"
    }
    assert counted == ENDS


def test_parked_requests_are_counted_by_their_reason(day: Day) -> None:
    counted = {
        dict(labels)["reason"]: value
        for (name, labels), value in day.samples.items()
        if name == "session_worker_parked_total" and value
    }
    parked = ("handler_failed", "handler_timeout", "unreadable", "idempotency_conflict")
    assert counted == dict.fromkeys(parked, 1)


def test_attempts_duplicates_and_lost_answers_are_counted(day: Day) -> None:
    """Two attempts each: the one that failed once, the one that failed always, the one that hung. None: the
    one that had expired."""
    attempts = 3 * 2 + 4
    assert day.metric("session_worker_attempts_total") == attempts
    assert day.metric("session_worker_handler_seconds_count") == attempts
    assert day.metric("session_worker_replayed_total") == 3
    assert day.metric("session_worker_replies_undeliverable_total") == 1


def test_times_are_those_of_the_requests(day: Day) -> None:
    """No request said when it was published: the queue wait is unknown, and the critical time counts from
    the first claim, however many attempts followed."""
    assert day.metric("session_worker_queue_wait_seconds_count") == 0
    answered = (
        sum(count for (outcome, _), count in ENDS.items() if outcome not in ("refused", "replayed")) - 1
    )
    assert day.metric("session_worker_critical_time_seconds_count") == answered
    below_a_second = day.metric("session_worker_critical_time_seconds_bucket", le="1.0")
    assert answered - below_a_second >= 3  # they waited a second for their second attempt
    assert day.metric("session_worker_handler_seconds_sum") >= 2  # it hung twice, for a second


def test_the_ledgers_transactions_are_counted(day: Day) -> None:
    """Each handled request takes a claim and an outcome at least; several may share a transaction."""
    commits = day.metric("session_worker_ledger_commit_seconds_count")
    steps = day.metric("session_worker_ledger_batch_size_sum")
    assert 0 < commits <= steps
    assert steps >= 2 * sum(ENDS.values()) - 4
    assert day.metric("session_worker_ledger_batch_size_count") == commits


def test_gauges_say_how_it_is_now(day: Day) -> None:
    assert day.metric("session_worker_inflight") == 0
    assert day.metric("session_worker_broker_connected") == 1
    assert day.metric("session_worker_consumer_active") == 1


def test_every_metric_is_there_and_nothing_else(day: Day) -> None:
    names = {name for name, _ in day.samples}
    for metric in METRICS:
        endings = ("_bucket", "_sum", "_count") if metric.kind == "histogram" else ("",)
        names -= {metric.name + ending for ending in endings}
        assert any(name.startswith(metric.name) for name, _ in day.samples), metric.name
    assert names == set()


# ------------------------------------------------------------------------------------------- log


def test_each_request_that_ends_has_one_line(day: Day) -> None:
    ends = Counter(
        (line["outcome"], line["error_code"] or "")
        for line in day.lines[: _index(day, "consuming paused")]
        if line["event"] == "request finished"
    )
    assert ends == ENDS
    first, *again = [
        line["outcome"]
        for line in day.lines
        if line.get("request_id") == day.plain_id and line["event"] == "request finished"
    ]
    assert (first, sorted(again)) == ("completed", ["refused", "replayed", "replayed"])


def _index(day: Day, event: str) -> int:
    return next(number for number, line in enumerate(day.lines) if line["event"] == event)


def test_every_line_about_a_request_says_which_and_who(day: Day) -> None:
    about = {text for event, (_, text) in LINES.items() if "request_id" in event.__slots__}
    (worker_id,) = {line["worker_id"] for line in day.lines}
    assert worker_id
    for line in day.lines:
        if line["event"] in about:
            assert {"request_id", "attempt"} <= line.keys()
            # Nobody could read an id from the one that is no JSON.
            assert line["request_id"] is not None or line.get("error_code") in (None, "unreadable")


def test_nothing_secret_is_logged(day: Day) -> None:
    """Not a body, and no password, at the level that tells most."""
    assert SECRET_TITLE not in day.output
    for password in day.passwords:
        assert password not in day.output


# ---------------------------------------------------------------------------------------- events


def test_every_event_comes_about(day: Day) -> None:
    seen = {line["event"] for line in day.lines}
    unseen = {event.__name__ for event in EVENTS if LINES[event][1] not in seen}
    assert unseen == ELSEWHERE.keys()
    assert seen - {text for _, text in LINES.values()} == {"worker ends at once"}  # its handler never ends


@pytest.mark.parametrize(("event", "path"), ELSEWHERE.items(), ids=ELSEWHERE)
def test_events_that_take_a_fault_are_seen_by_another_test(event: str, path: str) -> None:
    text = next(line for kind, (_, line) in LINES.items() if kind.__name__ == event)
    source = (ROOT / path).read_text()
    assert event in source or f'"{text}"' in source


# --------------------------------------------------------------------------------- the handler's own words


def test_whatever_a_handler_says_is_a_line_of_the_log_and_fails_no_request(lab: Lab) -> None:
    worker = lab.worker(handler="tests.support.handlers.talkative:handle")
    (request_id,) = send(lab, 1)
    (reply,) = lab.take("session.replies", 1, 30)
    assert code_of(reply) is None
    worker.wait_for("request finished")
    worker.terminate()
    assert worker.wait() == 0
    lines = [json.loads(line) for line in worker.output]  # each of them is JSON
    said = {str(line["event"]): line for line in lines}
    assert said["recorded 1"]["logger"] == "shop"
    assert sum(line["event"] == "printed" for line in lines) == 2
    assert said["printed in a thread"]["logger"] == "stderr"
    assert said["begun"]["logger"] == "stdout"
    assert any("warned" in event for event in said)
    (spoken,) = (line for line in lines if line.get("request_id") == request_id and "method_name" in line)
    assert "Unspeakable" in spoken["method_name"]
