"""kill -9 at every step of a request for an operation of a user's: one outcome, whatever it was about."""

from __future__ import annotations

import asyncio
import json
import signal
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

from tests.faults import audit
from tests.faults.support import PATH, WORKER, crashing
from tests.faults.test_crash_points import DIED_RUNNING, PARK_STEPS, PLAIN_STEPS, RETRY_STEPS
from tests.support.requester import Requester
from tests.support.waiting import soon
from tests.support.worker_process import WorkerProcess

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.external_rabbitmq import ExternalRabbitMQ
    from tests.support.servers import RabbitMQ

pytestmark = pytest.mark.faults

FAILS = dict.fromkeys(RETRY_STEPS, 1) | dict.fromkeys(PARK_STEPS, 99)
"""How many attempts fail, so that a request comes by the step."""


@pytest.mark.parametrize("step", [*PLAIN_STEPS, *RETRY_STEPS, *PARK_STEPS])
def test_a_users_request_survives_its_workers_death(
    rabbitmq: RabbitMQ | ExternalRabbitMQ, vhost: str, ledger_url: str, tmp_path: Path, step: str
) -> None:
    """One outcome, the same bytes in every answer, no attempt spent by the crash, which is counted where it
    ran; no session comes of it."""
    url, request_id = rabbitmq.vhost_url(vhost), str(uuid4())
    settings: dict[str, Any] = {
        **{name: value for name, value in WORKER.items() if name != "handler"},
        "app": "tests.support.apps.shop:app",
        "max_attempts": 2,
        "amqp_url": url,
        "ledger_url": ledger_url,
    }
    env = {**PATH, "TEST_NOTES": str(tmp_path / "notes")}
    body = {"request_id": request_id, "user_id": "ada", "payload": {"fails": FAILS.get(step, 0)}}
    first = WorkerProcess(folder=tmp_path, env=env, command=crashing(step), **settings)
    try:
        first.wait_up()
        with Requester(url) as requester:
            requester.send(json.dumps(body).encode(), routing_key="session.order")
            assert first.wait() == -signal.SIGKILL, "".join(first.output[-20:])
            second = WorkerProcess(folder=tmp_path, env=env, **settings)
            try:
                second.wait_up()

                def at_rest() -> bool:
                    requester.process(0.05)
                    depths = rabbitmq.queue_depths(vhost)
                    del depths["session.order.dead"]
                    return bool(requester.replies) and not any(depths.values())

                soon(at_rest, 30)
                second.terminate()
                assert second.wait() == 0
            finally:
                second.close()
            requester.process(0.5)
            answers = {reply.body for reply in requester.replies}
    finally:
        first.close()
    ledger = asyncio.run(audit.read(ledger_url))
    [row] = ledger.requests.values()
    assert answers == {row.response}
    assert row.outcome == ("handler_failed" if step in PARK_STEPS else "completed")
    assert row.attempt == min(FAILS.get(step, 0) + 1, 2)
    assert row.crashes == int(step in DIED_RUNNING)
    assert not ledger.sessions
