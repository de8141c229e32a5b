"""How a worker comes up."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import uuid4

from tests.broker.lab import request

if TYPE_CHECKING:
    from tests.broker.lab import Lab


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
