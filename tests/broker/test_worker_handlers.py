"""What handlers do beside their work, block in threads and say things, costs no request."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from session_contracts import RequestStatus
from tests.support.lab import code_of, send
from tests.support.waiting import soon

if TYPE_CHECKING:
    from tests.support.lab import Lab
    from tests.support.ops import Ops


# --------------------------------------------------------------------------------------------- threads


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


@pytest.mark.parametrize("script", [{"thread": "gate"}, {"do": "own thread"}], ids=["pool", "own"])
def test_an_exit_does_not_wait_for_threads(lab: Lab, script: dict[str, str]) -> None:
    """Everything was closed in order: what ran is handed back, and the exit code says so."""
    worker = lab.worker(shutdown_grace=0)
    request_ids = send(lab, 3, **(script if "do" in script else {"thread": str(lab.gate)}))
    lab.running(3)
    worker.terminate()
    assert worker.wait(30) == 0
    entries = lab.entries(request_ids)
    assert {(entry.status, entry.attempt) for entry in entries} == {(RequestStatus.PENDING, 0)}
    assert {entry.history[-1]["detail"] for entry in entries} == {"handed back"}


# ----------------------------------------------------------------------------------------------- words


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
