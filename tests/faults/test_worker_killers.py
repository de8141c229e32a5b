"""Requests that kill whichever worker gets them, under a supervisor that always starts the next one."""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING, Any

import pika
import pytest

from session_worker.broker.topology import WORK_LIMIT
from tests.faults.book import Sending
from tests.faults.crashing_worker import PARSER_KILLER
from tests.faults.support import NAMES, Scribe, at_rest, check, crashing, declare, plan, start_worker

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.external_rabbitmq import ExternalRabbitMQ
    from tests.support.servers import RabbitMQ

pytestmark = pytest.mark.faults


def supervise(
    done: Callable[[], bool],
    folder: Path,
    code: int = -signal.SIGKILL,
    deadline: float = 60.0,
    **settings: Any,
) -> int:
    """Keep a worker running until ``done``; how many died, each with this exit code."""
    deaths = 0
    end = time.monotonic() + deadline
    worker = start_worker(folder, **settings)
    try:
        while not done():
            if worker.returncode is not None:
                assert worker.wait() == code
                worker.close()
                deaths += 1
                worker = start_worker(folder, **settings)
            assert time.monotonic() < end, f"after {deaths} deaths:\n{''.join(worker.output[-40:])}"
            time.sleep(0.02)
    finally:
        worker.close()
    return deaths


def test_a_request_that_kills_its_worker_is_found_out_and_its_neighbours_complete(
    rabbitmq: RabbitMQ | ExternalRabbitMQ, vhost: str, ledger_url: str, tmp_path: Path
) -> None:
    """After MAX_CRASHES deaths it is answered ``crashed_worker`` and parked; who died with it completes with
    attempt 1 (the audit checks attempts, answers and the parking lot)."""
    found_out("kill", -signal.SIGKILL, rabbitmq, vhost, ledger_url, tmp_path)


@pytest.mark.parametrize("way", ["exit-apart", "stop-loop"])
def test_a_request_that_ends_the_event_loop_is_found_out_like_one_that_kills(
    way: str, rabbitmq: RabbitMQ | ExternalRabbitMQ, vhost: str, sqlite_url: str, tmp_path: Path
) -> None:
    """A task of its handler's does it: nothing is handed back then, and the worker's end is no success."""
    found_out(way, 1, rabbitmq, vhost, sqlite_url, tmp_path)


def found_out(
    way: str, code: int, rabbitmq: RabbitMQ | ExternalRabbitMQ, vhost: str, ledger_url: str, folder: Path
) -> None:
    url = rabbitmq.vhost_url(vhost)
    declare(url)
    with Scribe(url) as scribe:
        neighbours = [plan("slow:0.3") for _ in range(10)]
        scribe.send_all([*neighbours[:5], killer := plan(way), *neighbours[5:]])

        def done() -> bool:
            return at_rest(rabbitmq, vhost, scribe, ledger_url)

        deaths = supervise(done, folder, code, amqp_url=url, ledger_url=ledger_url, max_crashes=3)
        ledger = check(scribe, ledger_url)
    assert killer.request_id is not None
    assert ledger.requests[killer.request_id].crashes == deaths == 3


def test_a_message_that_cannot_even_be_read_is_found_out_in_the_slow_lane(
    rabbitmq: RabbitMQ | ExternalRabbitMQ, vhost: str, sqlite_url: str, tmp_path: Path
) -> None:
    """The delivery limit moves it out of the work; alone in the slow lane it takes three workers down, and is
    then answered ``crashed_worker`` by its correlation id and parked, without being read."""
    url = rabbitmq.vhost_url(vhost)
    declare(url)
    body = b'{"note": "' + PARSER_KILLER + b'"}'
    killer = Sending("killer", None, None, frozenset({"crashed_worker"}), body=body)
    with Scribe(url) as scribe:
        scribe.send(killer)
        wear_out(url)
        scribe.send_all([plan("slow:0.1") for _ in range(10)])

        def done() -> bool:
            return at_rest(rabbitmq, vhost, scribe, sqlite_url)

        deaths = supervise(done, tmp_path, amqp_url=url, ledger_url=sqlite_url, command=crashing("parser"))
        check(scribe, sqlite_url)
    assert deaths == 3


def wear_out(url: str) -> None:
    """Lose the only message of the work queue as often as its delivery limit allows."""
    for _ in range(WORK_LIMIT + 1):
        connection = pika.BlockingConnection(pika.URLParameters(url))
        channel = connection.channel()
        end = time.monotonic() + 5
        while channel.basic_get(NAMES.work)[0] is None:
            assert time.monotonic() < end
        connection.close()
