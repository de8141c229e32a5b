"""One request in two workers' hands: who may work on it, who waits, and who comes too late."""

from __future__ import annotations

import signal
import time
from contextlib import closing
from typing import TYPE_CHECKING

import pika

from session_contracts import RequestStatus
from session_contracts.amqp import REQUEUE_COUNT
from tests.support.lab import answer, code_of, request, send
from tests.support.waiting import soon

if TYPE_CHECKING:
    from tests.support.lab import Lab


def requeues(lab: Lab) -> int:
    """The requeues of the copy that waits in the retry queue; 0 when none waits."""
    with closing(pika.BlockingConnection(pika.URLParameters(lab.url))) as connection:
        # While somebody holds it the copy does not come round: it is left alone most of the time.
        time.sleep(0.5)
        _, properties, _ = connection.channel().basic_get("session.create.retry.1s")
        return 0 if properties is None else int(properties.headers.get(REQUEUE_COUNT, 0))


def test_a_duplicate_goes_round_while_another_worker_runs_the_request(lab: Lab) -> None:
    """Time and again, for longer than a dead holder would be trusted; then it gets the stored answer."""
    for _ in range(2):
        lab.worker(concurrency=1)
    body = request(gate=str(lab.gate))
    with lab.requester() as requester:
        requester.send(body)
        lab.running(1)
        requester.send(body)
        soon(lambda: requeues(lab) >= 3, 40)
        lab.open_gate()
        first, again = requester.collect(2)
    assert first.body == again.body
    assert sorted(len(reply.headers) for reply in (first, again)) == [0, 1]
    assert list(lab.runs().values()) == [1]
    lab.quiet()


def test_requests_that_saw_workers_die_hold_up_nobody_else(lab: Lab) -> None:
    """They run one at a time, and those that wait for it leave slots to the others; all are answered."""
    lab.declare()
    gated = send(lab, 4, gate=str(lab.gate))
    for runs in (1, 2):
        doomed = lab.worker(concurrency=4, holder_timeout=1)
        soon(lambda: list(lab.runs().values()) == [runs] * 4, 30)  # noqa: B023
        doomed.kill()
    lab.worker(concurrency=4, holder_timeout=1)
    soon(lambda: sum(lab.runs().values()) == 9, 30)
    (fresh,) = send(lab, 1)
    lab.noted(fresh, "sent")
    assert sum(lab.runs().values()) == 10
    lab.open_gate()
    soon(lambda: {entry.status for entry in lab.entries(gated)} == {RequestStatus.COMPLETED}, 30)
    lab.quiet()


def test_a_handler_that_blocks_its_event_loop_is_not_taken_for_dead(lab: Lab) -> None:
    """The worker's name is renewed meanwhile: nobody takes the request over, no crash is counted."""
    for _ in range(2):
        lab.worker(concurrency=1, holder_timeout=1)
    body = request(do="block")
    with lab.requester() as requester:
        for _ in range(2):
            requester.send(body)
            lab.running(1)
        replies = requester.collect(2, 30)
    assert len({reply.body for reply in replies}) == 1
    assert answer(replies[0])["metadata"]["attempts"] == 1
    assert list(lab.runs().values()) == [1]
    lab.quiet()


def test_a_frozen_worker_that_wakes_up_too_late_changes_nothing(lab: Lab) -> None:
    """Its request was taken over and finished: it answers with what the other one stored."""
    frozen = lab.worker(concurrency=1)
    body = request(gate=str(lab.gate))
    with lab.requester() as requester:
        requester.send(body)
        lab.running(1)
        frozen.send_signal(signal.SIGSTOP)
        try:
            other = lab.worker()
            lab.open_gate()
            requester.send(body)
            [first] = requester.collect(1, 30)
            finished = other.wait_for("request finished")
        finally:
            frozen.send_signal(signal.SIGCONT)
        frozen.wait_for("request was taken over")
        late = requester.collect(2)[1]
    assert code_of(first) is None
    assert late.body == first.body
    assert late.headers == {"x-idempotent-replayed": True}
    assert answer(first)["request_id"] == finished["request_id"]
    assert lab.sessions() == 1
    lab.quiet()
