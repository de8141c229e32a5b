"""How a worker comes up."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from session_worker.sandbox import RabbitMQ
from tests.support.lab import request

if TYPE_CHECKING:
    from tests.support.lab import Lab


def test_a_full_queue_at_the_start_leaves_nothing_unanswered(lab: Lab) -> None:
    """Deliveries arrive while the link is being put together; their replies go out by it all the same."""
    lab.worker().close()
    request_ids = {str(uuid4()) for _ in range(300)}
    with lab.requester() as requester:
        for request_id in request_ids:
            requester.send(request(request_id))
        lab.worker()
        replies = requester.collect(len(request_ids), 30)
    assert {reply.properties.correlation_id for reply in replies} == request_ids
    lab.quiet()


def test_a_vhost_that_is_down_is_waited_for(lab: Lab) -> None:
    """So is every vhost of a node that boots; one that does not exist is said at once."""
    if not isinstance(lab.broker, RabbitMQ):
        pytest.skip("it takes a node of our own")
    name = ",".join(str(byte) for byte in lab.vhost.encode())
    lab.broker.eval(f"rabbit_vhost_sup_sup:stop_and_delete_vhost(<<{name}>>)")
    worker = lab.worker(wait=False)
    assert "is down" in worker.wait_for("no link to the broker")["reason"]
    lab.broker.eval(f"{{ok, _}} = rabbit_vhost_sup_sup:start_vhost(<<{name}>>)")
    worker.wait_up()
