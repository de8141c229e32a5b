"""What each way a request can end looks like from outside: answer, ledger, queues, parked copy."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import time
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

from session_contracts import RequestStatus
from tests.support.lab import NIL, answer, code_of, open_lab, request, send
from tests.support.waiting import soon
from tests.support.worker_process import PROGRAM

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from session_worker.ledger.reader import Entry
    from tests.support.lab import Lab
    from tests.support.ops import Ops
    from tests.support.requester import RawReply
    from tests.support.servers import RabbitMQ


# --------------------------------------------------------------------------------------------- answers

HANDLED: dict[str, dict[str, Any]] = {
    "plain": {},
    "merge": {"do": "merge"},
    "fails once": {"fails": 1},
    "fails always": {"fails": 99},
    "exit": {"do": "exit"},
    "cancel": {"do": "cancel"},
    "hang": {"do": "hang"},
    "reject": {"do": "reject"},
    "set": {"do": "set"},
    "large": {"do": "large"},
}
"""What the handler does. All are sent at once, so that their waits overlap."""


@dataclass(frozen=True)
class Ended:
    """How one of them ended; `parked` is its copy on the parking lot, `redrive` what asking again gave."""

    body: bytes
    reply: RawReply
    redrive: RawReply
    entry: Entry
    runs: int
    parked: list[RawReply]

    @property
    def metadata(self) -> Mapping[str, Any]:
        metadata = answer(self.reply)["metadata"]
        assert isinstance(metadata, dict)
        return metadata


@pytest.fixture(scope="module")
def ended(served: Lab) -> dict[str, Ended]:
    bodies = {name: request(**script) for name, script in HANDLED.items()}
    ids = {name: json.loads(body)["request_id"] for name, body in bodies.items()}
    parked_ones = ["fails always", "exit", "cancel", "hang", "set", "large"]
    with served.requester() as requester:
        for name, body in bodies.items():
            requester.send(body, correlation_id=name, headers={"traceparent": f"00-{name}", "x-own": "1"})
        replies = {reply.properties.correlation_id: reply for reply in requester.collect(len(bodies), 30)}
        parked = served.take("session.create.dead", len(parked_ones))
        served.quiet()
        redrives = {name: requester.ask(body) for name, body in bodies.items()}
    for request_id in ids.values():
        served.noted(request_id, "sent")
    served.quiet()
    assert set(replies) == set(bodies)
    return {
        name: Ended(
            body,
            replies[name],
            redrives[name],
            served.entry(ids[name]),
            served.runs()[ids[name]],
            [copy for copy in parked if copy.headers["x-request-id"] == ids[name]],
        )
        for name, body in bodies.items()
    }


@pytest.mark.parametrize("name", ["plain", "merge", "fails once"])
def test_completed_requests_have_a_session_and_no_parked_copy(ended: dict[str, Ended], name: str) -> None:
    one = ended[name]
    assert code_of(one.reply) is None
    assert one.entry.status is RequestStatus.COMPLETED
    assert answer(one.reply)["payload"]["session_id"] == one.entry.session_id
    assert one.parked == []


@pytest.mark.parametrize("name", HANDLED)
def test_asking_again_gives_the_same_bytes_marked_as_replayed(ended: dict[str, Ended], name: str) -> None:
    """Whatever the outcome was; and the handler does not run for it."""
    one = ended[name]
    assert one.redrive.body == one.reply.body
    assert one.redrive.headers == {"x-idempotent-replayed": True}
    assert one.reply.properties.headers is None
    assert one.entry.reply == "sent"


def test_the_handlers_metadata_never_overrides_ours(ended: dict[str, Ended]) -> None:
    metadata = ended["merge"].metadata
    assert metadata["region"] == "eu-1"
    assert metadata["attempts"] == 1
    assert isinstance(metadata["worker_id"], str)


def test_a_failed_attempt_is_repeated_when_it_is_due_and_not_before(ended: dict[str, Ended]) -> None:
    """Its history tells the story; three immediate tries are one attempt."""
    one = ended["fails once"]
    assert (one.entry.attempt, one.metadata["attempts"], one.runs) == (2, 2, 4)
    steps = [(step["status"], step["attempt"]) for step in one.entry.history]
    assert steps == [
        ("pending", 0),
        ("processing", 1),
        ("pending", 1),
        ("processing", 2),
        ("completed", 2),
    ]
    waiting, again = one.entry.history[2], one.entry.history[3]
    waited = datetime.fromisoformat(again["at"]) - datetime.fromisoformat(waiting["at"])
    assert 1.0 <= waited.total_seconds() < 5
    assert "attempt 1 fails" in waiting["detail"]


@pytest.mark.parametrize(
    ("name", "code", "attempts", "exception"),
    [
        ("fails always", "handler_failed", 2, "RuntimeError"),
        ("exit", "handler_failed", 2, "SystemExit"),
        ("cancel", "handler_failed", 2, "CancelledError"),
        ("hang", "handler_timeout", 2, "TimeoutError"),
        ("set", "handler_result_invalid", 1, "InvalidResultError"),
        ("large", "handler_result_invalid", 1, "InvalidResultError"),
    ],
)
def test_failed_requests_are_answered_and_parked_once(
    served: Lab, ended: dict[str, Ended], name: str, code: str, attempts: int, exception: str
) -> None:
    """With every header that people need, and the body and properties as they were sent."""
    one = ended[name]
    assert code_of(one.reply) == code
    assert (one.entry.status, one.entry.error_code) == (RequestStatus.FAILED, code)
    assert one.metadata["attempts"] == one.entry.attempt == attempts
    assert answer(one.reply)["payload"]["session_id"] == one.entry.session_id
    assert "fails, as the request says" not in one.reply.body.decode()
    [copy] = one.parked
    assert copy.body == one.body
    assert copy.properties.correlation_id == name
    assert copy.properties.reply_to.startswith("amq_test.")
    assert copy.properties.delivery_mode == 2
    headers = dict(copy.headers)
    headers.pop("x-delivery-count", None)  # the broker's own
    assert datetime.fromisoformat(headers.pop("x-failed-at")) >= datetime.fromisoformat(
        headers.pop("x-first-seen-at")
    )
    assert exception in headers.pop("x-exception-message")
    assert exception in headers.pop("x-exception-stacktrace")
    assert headers.pop("x-worker-id") == one.metadata["worker_id"]
    assert headers == {
        "traceparent": f"00-{name}",
        "x-request-id": str(one.entry.request_id),
        "x-error-code": code,
        "x-exception-type": exception,
        "x-original-queue": "session.create",
        "x-attempts": attempts,
    }


def test_a_business_answer_is_final_at_once_and_not_parked(ended: dict[str, Ended]) -> None:
    one = ended["reject"]
    document = answer(one.reply)
    assert (code_of(one.reply), document["error"]) == ("rejected", "the quota is spent")
    assert document["metadata"]["rejection_code"] == "quota"
    assert (one.entry.status, one.entry.attempt, one.runs) == (RequestStatus.FAILED, 1, 1)
    assert one.parked == []


def document(**changes: object) -> bytes:
    return json.dumps(json.loads(request()) | changes).encode()


REFUSED: list[tuple[str, bytes, dict[str, Any]]] = [
    ("unreadable", b"{", {}),
    ("unreadable", b"", {}),
    ("unreadable", b"[1]", {}),
    ("unreadable", b"[" * 5000, {}),
    ("unreadable", request(), {"content_type": "text/xml"}),
    ("unreadable", request(), {"content_encoding": "gzip"}),
    ("invalid_request", document(user_id="a"), {}),
    ("invalid_request", document(request_id="no uuid"), {}),
    ("invalid_request", document(request_id=NIL), {}),
    ("invalid_request", document(payload={"title": ""}), {}),
    ("unsupported_operation", document(operation="delete_everything"), {}),
    ("too_large", document(metadata={"text": "x" * 8192}), {}),
    ("too_large", document(metadata={"text": "x" * 400_000}), {}),
    ("missing_request_id", b'{"user_id": "ada@example.com", "payload": {}}', {}),
]


def test_refusals_are_answered_parked_and_leave_no_entry(served: Lab) -> None:
    """Each code, and no more of the body on the parking lot than people need."""
    sessions = served.sessions()
    with served.requester() as requester:
        for number, (_, body, properties) in enumerate(REFUSED):
            requester.send(body, correlation_id=f"refused {number}", **properties)
        replies = {r.properties.correlation_id: r for r in requester.collect(len(REFUSED))}
    parked = {r.properties.correlation_id: r for r in served.take("session.create.dead", len(REFUSED))}
    served.quiet()
    for number, (code, body, _) in enumerate(REFUSED):
        name = f"refused {number}"
        reply, copy = replies[name], parked[name]
        assert code_of(reply) == copy.headers["x-error-code"] == code
        assert answer(reply)["payload"]["session_id"] == "ts_000000_none"
        assert copy.headers["x-exception-message"] == answer(reply)["error"]
        assert copy.body == body[:4096]
        if len(body) > 4096:
            assert copy.headers["x-body-sha256"] == hashlib.sha256(body).hexdigest()
            assert copy.headers["x-body-bytes"] == len(body)
        else:
            assert "x-body-sha256" not in copy.headers
    assert served.sessions() == sessions


def test_garbage_that_nobody_could_match_is_parked_without_an_answer(served: Lab) -> None:
    with served.requester() as requester:
        requester.send(b"\x00", reply_to=None)
    [copy] = served.take("session.create.dead")
    served.quiet()
    assert (copy.body, copy.headers["x-error-code"]) == (b"\x00", "unreadable")
    assert "x-request-id" not in copy.headers
    assert served.depth("session.replies") == 0


def test_a_used_id_with_other_content_is_refused_and_never_shown_the_answer(served: Lab) -> None:
    """A refusal of the conflicting one does not use up the id for the first."""
    request_id = str(uuid4())
    with served.requester() as requester:
        first = requester.ask(request(request_id, "mine"))
        other = requester.ask(request(request_id, "not mine"))
        again = requester.ask(request(request_id, "mine"))
    assert code_of(other) == "idempotency_conflict"
    assert answer(first)["payload"]["session_id"] not in other.body.decode()
    assert again.body == first.body
    [copy] = served.take("session.create.dead")
    served.quiet()
    assert copy.headers["x-request-id"] == request_id


def test_an_expired_request_is_answered_by_way_of_the_slow_lane(lab: Lab) -> None:
    """It ran out in the queue: nothing is created, nothing is parked, and the handler never ran."""
    lab.declare()
    request_id = str(uuid4())
    with lab.requester() as requester:
        requester.send(request(request_id), expiration="1")
        lab.worker()
        [reply] = requester.collect()
    assert code_of(reply) == "expired"
    assert answer(reply)["metadata"]["attempts"] == 0
    entry = lab.entry(request_id)
    assert (entry.status, entry.attempt) == (RequestStatus.FAILED, 0)
    assert [step["status"] for step in entry.history] == ["pending", "failed"]
    lab.quiet()
    assert lab.sessions() == 0
    assert not lab.runs()


def test_a_request_that_would_be_due_after_its_expiry_fails_now(lab: Lab) -> None:
    """Its requester hears within its time instead of after the retry delay, and what failed is parked."""
    worker = lab.worker(retry_delays="600")
    request_id = str(uuid4())
    with lab.requester() as requester:
        reply = requester.ask(request(request_id, fails=99), expiration="60000")
    assert code_of(reply) == "handler_failed"
    entry = lab.entry(request_id)
    assert entry.status is RequestStatus.FAILED
    assert "in scripted (handlers/scripted.py:" in entry.history[-1]["detail"]
    [copy] = lab.take("session.create.dead")
    assert copy.headers["x-exception-type"] == "RuntimeError"
    assert "in scripted" in copy.headers["x-exception-stacktrace"]
    assert "in scripted" in worker.wait_for("attempt failed")["exception"]
    lab.quiet()


def test_a_request_that_always_fails_is_never_its_requesters_fault(lab: Lab) -> None:
    """The delays fit into the time that its requester waits; it is answered within that as what it is."""
    lab.worker(retry_delays="1,3,600")
    request_id = str(uuid4())
    with lab.requester() as requester:
        reply = requester.ask(request(request_id, fails=99), expiration="10000")
    assert code_of(reply) == "handler_failed"
    entry = lab.entry(request_id)
    assert entry.attempt >= 3, "a shorter last wait rather than none"
    [copy] = lab.take("session.create.dead")
    assert copy.headers["x-error-code"] == "handler_failed"
    lab.quiet()


def test_a_late_copy_of_a_request_that_failed_ends_by_its_failure(lab: Lab) -> None:
    """No worker ran when it was due: it is answered and parked all the same, not called expired."""
    worker = lab.worker(retry_delays="2")
    request_id = str(uuid4())
    with lab.requester() as requester:
        requester.send(request(request_id, fails=99), expiration="4000")
        worker.wait_for("attempt failed")
        worker.terminate()
        assert worker.wait() == 0
        soon(lambda: time.time() > lab.entry(request_id).received_at.timestamp() + 4, 30)
        lab.worker(retry_delays="2")
        [reply] = requester.collect()
    assert code_of(reply) == "handler_failed"
    [copy] = lab.take("session.create.dead")
    assert "in scripted" in copy.headers["x-exception-message"]
    lab.quiet()


def test_the_slow_lane_knows_how_long_a_requester_waits(lab: Lab) -> None:
    """The broker took the expiration off when it gave the request up, before anybody had claimed it."""
    lab.declare()
    request_id = str(uuid4())
    with lab.requester() as requester:
        requester.send(request(request_id, fails=99), expiration="60000")
        for _ in range(21):
            soon(lambda: _gives_back(requester.channel))
        lab.holds("session.create.undelivered", 1)
        lab.worker(retry_delays="600")
        [reply] = requester.collect()
    assert code_of(reply) == "handler_failed", "there is no time for another attempt"
    lab.take("session.create.dead")
    lab.quiet()


def _gives_back(channel: Any) -> bool:
    method, _, _ = channel.basic_get("session.create")
    if method is None:
        return False
    channel.basic_nack(method.delivery_tag)
    return True


def test_a_byte_order_mark_before_a_body_is_not_in_the_way(served: Lab) -> None:
    """It is the same request as without it, and a copy of it can be replayed as it was sent."""
    request_id = str(uuid4())
    plain = request(request_id)
    with served.requester() as requester:
        first = requester.ask(b"\xef\xbb\xbf" + plain)
        again = requester.ask(plain)
    assert code_of(first) is None
    assert again.body == first.body
    served.quiet()


def test_a_huge_expiration_is_no_expiration(served: Lab) -> None:
    """The broker takes up to 2^32 - 1 ms; it fits every ledger's timestamps, also through a retry."""
    with served.requester() as requester:
        reply = requester.ask(request(fails=1), expiration=str(2**32 - 1))
    assert code_of(reply) is None
    served.quiet()


# ---------------------------------------------------------------- copies that the broker does not take


def test_a_full_parking_lot_holds_up_nobodys_answer(lab: Lab) -> None:
    """A copy that is refused goes round by the slowest retry queue and is parked once there is room."""
    lab.declare()
    lab.broker.delete_queue(lab.vhost, "session.create.dead")
    arguments = {"x-queue-type": "quorum", "x-max-length": 1, "x-overflow": "reject-publish"}
    asked: list[str] = []
    with lab.requester() as requester:
        requester.channel.queue_declare("session.create.dead", durable=True, arguments=arguments)
        worker = lab.worker(declare="false", max_attempts=1)
        while not any(line["event"] == "request not parked" for line in worker.logs):
            asked.append(str(uuid4()))
            assert code_of(requester.ask(request(asked[-1], fails=99))) == "handler_failed"
            assert len(asked) < 20
        garbage = requester.ask(b"garbage" * 1000)
        assert code_of(garbage) == "unreadable"
        assert code_of(requester.ask(request())) is None
        parked = lab.take("session.create.dead", len(asked) + 1)
    lab.quiet()
    ids = [copy.headers["x-request-id"] for copy in parked if copy.body != (b"garbage" * 1000)[:4096]]
    assert sorted(ids) == sorted(asked)
    assert {copy.headers["x-error-code"] for copy in parked} == {"handler_failed", "unreadable"}
    assert {entry.status for entry in lab.entries(asked)} == {RequestStatus.FAILED}
    assert lab.runs() == dict.fromkeys(asked, 3) | {id_: 1 for id_ in lab.runs() if id_ not in asked}


def test_a_copy_waits_for_a_queue_that_an_operator_has_to_declare(lab: Lab) -> None:
    """It holds up nobody else, the log says which queue it is, and the request goes on when it is there."""
    lab.declare()
    worker = lab.worker(declare="false")
    lab.broker.delete_queue(lab.vhost, "session.create.retry.1s")
    with lab.requester() as requester:
        requester.send(request(fails=1))
        assert worker.wait_for("copy not taken")["queue"] == "session.create.retry.1s"
        requester.send(request())
        assert code_of(requester.collect(1)[0]) is None
        subprocess.run(
            [PROGRAM, "topology", "apply", "--retry-delays", "1"],
            env=os.environ | {"SESSION_WORKER_AMQP_URL": lab.url},
            check=True,
            capture_output=True,
        )
        assert [code_of(reply) for reply in requester.collect(2)] == [None, None]
    lab.quiet()


def test_a_copy_that_finds_no_queue_is_not_sent_for_a_delivery_that_comes_again(lab: Lab) -> None:
    """The retry queue is gone; a new link declares it anew.
    The request's redelivery leads to the one answer: the old copy is not sent beside it."""
    worker = lab.worker()
    request_id = str(uuid4())
    lab.broker.delete_queue(lab.vhost, "session.create.retry.1s")
    with lab.requester() as requester:
        requester.send(request(request_id, fails=1), reply_to=None)
    worker.wait_for("worker up", count=2)
    [reply] = lab.take("session.replies")
    assert code_of(reply) is None
    lab.quiet()
    lab.holds("session.replies", 0)
    assert lab.entry(request_id).attempt == 2


def test_a_dead_letter_fits_into_the_frames_that_the_broker_takes(
    own_rabbitmq: RabbitMQ, sqlite_url: str, tmp_path: Path
) -> None:
    """The stack trace is cut where it says least; a full parking lot would be something else."""
    own_rabbitmq.eval("application:set_env(rabbit, frame_max, 4096)")
    with open_lab(own_rabbitmq, sqlite_url, tmp_path) as lab:
        worker = lab.worker(max_attempts=1)
        with lab.requester() as requester:
            reply = requester.ask(request(do="shout"))
        assert code_of(reply) == "handler_failed"
        [copy] = lab.take("session.create.dead")
        lab.quiet()
    assert copy.headers["x-exception-stacktrace"].endswith("é")
    assert copy.headers["x-exception-message"].startswith("RuntimeError: é")
    assert not [line for line in worker.logs if line["event"] == "request not parked"]


# ----------------------------------------------------------------------------- handlers that block threads


def test_every_request_that_runs_has_a_thread(lab: Lab) -> None:
    """With asyncio's own pool of a few threads, most would wait for one until their time is up."""
    lab.worker(concurrency=64, handler_timeout=3)
    request_ids = send(lab, 60, nap=1)
    replies = lab.take("session.replies", len(request_ids), 60)
    assert {code_of(reply) for reply in replies} == {None}
    assert {entry.attempt for entry in lab.entries(request_ids)} == {1}


def test_while_threads_of_ended_attempts_still_run_nothing_more_is_consumed(lab: Lab, ops: Ops) -> None:
    """Requests stay at the broker; when the threads end they complete, at their first attempt."""
    worker = lab.worker(concurrency=2, handler_timeout=1, retry_delays="1,600", ops_port=ops.port)
    stuck = send(lab, 2, thread=str(lab.gate))
    worker.wait_for("consuming paused")
    soon(lambda: "still run in all handlers' threads" in ops.red().get("consumer", ""))
    waiting = send(lab, 4)
    soon(lambda: lab.depth("session.create") >= len(waiting), 20)
    assert not set(waiting) & set(lab.runs())
    lab.open_gate()
    worker.wait_for("consuming again")
    replies = lab.take("session.replies", len(waiting) + len(stuck), 60)
    assert {code_of(reply) for reply in replies} == {None}
    assert {entry.attempt for entry in lab.entries(waiting)} == {1}


def test_a_request_that_waited_for_a_thread_is_left_to_other_workers(lab: Lab) -> None:
    lab.worker(concurrency=1, handler_timeout=1, retry_delays="1,600").wait_up()
    send(lab, 1, thread=str(lab.gate))
    lab.running(1)
    waiting = send(lab, 1)  # delivered as soon as the first one has timed out
    lab.workers[0].wait_for("consuming paused")
    lab.worker(concurrency=10)
    [reply] = lab.take("session.replies", 1, 30)
    assert reply.properties.correlation_id == waiting[0]
    assert lab.entry(waiting[0]).status == RequestStatus.COMPLETED
