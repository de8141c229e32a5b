"""Copies that the broker does not take: they wait, and hold up nobody but themselves."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING
from uuid import uuid4

from session_contracts import RequestStatus
from tests.support.lab import code_of, open_lab, request
from tests.support.worker_process import PROGRAM

if TYPE_CHECKING:
    from pathlib import Path

    from session_worker.sandbox import RabbitMQ
    from tests.support.lab import Lab


def test_a_full_parking_lot_holds_up_nobodys_answer(lab: Lab) -> None:
    """A copy that is refused goes round by the slowest retry queue and is parked once there is room."""
    lab.declare()
    lab.broker.delete_queue(lab.vhost, "session.create.dead")
    arguments = {"x-queue-type": "quorum", "x-max-length": 1, "x-overflow": "reject-publish"}
    asked: list[str] = []
    with lab.requester() as requester:
        requester.channel.queue_declare("session.create.dead", durable=True, arguments=arguments)
        worker = lab.worker(declare="false", max_attempts=1)
        while not any(line["event"] == "parking lot refuses" for line in worker.logs):
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
    assert not [line for line in worker.logs if line["event"] == "parking lot refuses"]
