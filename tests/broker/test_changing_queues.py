"""What docs/operations.md builds on when it changes queues: nothing is lost or done twice on the way."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import uuid4

import pytest
from pika.exceptions import UnroutableError

from tests.support.lab import code_of, request
from tests.support.waiting import soon

if TYPE_CHECKING:
    from tests.support.lab import Lab


def test_a_request_that_waits_for_a_delay_no_longer_set_comes_back(lab: Lab) -> None:
    """Its queue, which the new workers do not know, gives it back to the work queue by itself."""
    old = lab.worker(retry_delays="4")
    with lab.requester() as requester:
        requester.send(request(fails=1))
        soon(lambda: requester.ready("session.create.retry.4s") == 1)
        old.terminate()
        assert old.wait() == 0
        lab.worker(retry_delays="1,10")
        assert code_of(requester.collect(1)[0]) is None
    lab.quiet()


def test_a_request_that_comes_by_the_old_and_by_the_new_names_is_done_once(lab: Lab) -> None:
    """By workers of both prefixes, which share the ledger; the second answer is the first one's copy."""
    lab.worker()
    lab.worker(prefix="session2")
    body = request(str(uuid4()))
    with lab.requester() as requester:
        first = requester.ask(body)
        second = requester.ask(body, routing_key="session2.create")
    assert code_of(first) is None
    assert second.body == first.body
    assert second.headers["x-idempotent-replayed"]
    assert set(lab.runs().values()) == {1}


def test_a_requester_that_still_uses_names_that_were_deleted_is_told(lab: Lab) -> None:
    """Its message comes back to it, as having no route."""
    lab.declare()
    for queue in ("session.create", "session.create.undelivered"):
        lab.broker.delete_queue(lab.vhost, queue)
    with lab.requester() as requester, pytest.raises(UnroutableError):
        requester.send(request(), exchange="session", routing_key="create")
