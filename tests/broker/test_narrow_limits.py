"""Few channels, connections or permissions: what a worker can do without ends nothing, and what it needs is
named."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

from tests.support.lab import code_of, open_lab, send

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.lab import Lab
    from tests.support.servers import RabbitMQ
    from tests.support.worker_process import WorkerProcess

HASTY = "tests.support.handlers.hasty:scripted"
ONE: dict[str, Any] = {"operations": "create_session"}
"""For a worker that needs as little as any."""


@pytest.fixture
def user() -> str:
    return f"limited-{uuid4().hex[:8]}"


def _url(lab: Lab, user: str) -> str:
    return lab.broker.add_user(user, "secret", lab.vhost, ".*", ".*", ".*")


def _serves_without_its_entrance(lab: Lab, worker: WorkerProcess, reason: str) -> None:
    """It says so once, and keeps its link."""
    assert reason in worker.wait_for("entrance not kept")["reason"]
    _serves(lab, worker)
    assert [line["event"] for line in worker.logs].count("entrance not kept") == 1


def _serves(lab: Lab, worker: WorkerProcess) -> None:
    request_ids = send(lab, 20)
    replies = lab.take("session.replies", len(request_ids), 30)
    assert {code_of(reply) for reply in replies} == {None}
    worker.terminate()
    assert worker.wait() == 0
    events = [line["event"] for line in worker.logs]
    assert events.count("worker up") == 1
    assert "link lost" not in events


@pytest.mark.parametrize(
    ("limit", "value", "reason"),
    [("max-channels", 3, "number of channels"), ("max-connections", 2, "takes no more connections")],
)
def test_a_user_with_just_enough_serves(lab: Lab, user: str, limit: str, value: int, reason: str) -> None:
    url = _url(lab, user)
    lab.broker.limit_user(user, limit, value)
    _serves_without_its_entrance(lab, lab.worker(amqp_url=url, handler=HASTY, **ONE), reason)


def test_a_permission_that_was_withdrawn_costs_no_link(lab: Lab, user: str) -> None:
    """A worker that is connected needs none to declare."""
    worker = lab.worker(amqp_url=_url(lab, user), handler=HASTY, **ONE)
    lab.broker.set_permissions(user, lab.vhost, "", ".*", ".*")
    _serves_without_its_entrance(lab, worker, "permission on exchange session")


@pytest.mark.parametrize(
    ("limit", "value"), [("max-channels", 2), ("max-channels", 1), ("max-connections", 1)]
)
def test_a_user_with_too_little_is_told_so_in_a_sentence(lab: Lab, user: str, limit: str, value: int) -> None:
    url = _url(lab, user)
    lab.broker.limit_user(user, limit, value)
    worker = lab.worker(wait=False, amqp_url=url, **ONE)
    assert worker.wait(60) == 1
    assert "raise" in worker.output[-1]
    assert f"({value})" in worker.output[-1]
    assert "Traceback" not in "".join(worker.output)


def test_a_worker_that_lacks_a_channel_takes_no_request(lab: Lab, user: str) -> None:
    """Handed back once for each of its links, a request would come nearer to the delivery limit."""
    url = _url(lab, user)
    lab.declare()
    lab.broker.limit_user(user, "max-channels", 2)
    send(lab, 1)

    assert lab.worker(wait=False, amqp_url=url, **ONE).wait(60) == 1

    (waiting,) = lab.take("session.create")
    assert not (waiting.properties.headers or {}).get("x-delivery-count")


def test_a_worker_that_may_not_read_the_undelivered_takes_no_request(lab: Lab, user: str) -> None:
    """Its link fails again and again until somebody grants the permission."""
    lab.declare(**ONE)
    url = lab.broker.add_user(user, "secret", lab.vhost, "^$", ".*", r"^session\.create$")
    send(lab, 1)

    worker = lab.worker(wait=False, amqp_url=url, declare="false", **ONE)
    assert worker.wait(60) == 1

    assert "has no read permission on queue session.create.undelivered" in worker.output[-1]
    (waiting,) = lab.take("session.create")
    assert not (waiting.properties.headers or {}).get("x-delivery-count")


@pytest.fixture
def narrow(own_rabbitmq: RabbitMQ, sqlite_url: str, tmp_path: Path) -> Iterator[Lab]:
    """A lab on a broker that allows two channels on a connection."""
    with open_lab(own_rabbitmq, sqlite_url, tmp_path) as lab:
        own_rabbitmq.eval("application:set_env(rabbit, channel_max, 2)")
        yield lab
        own_rabbitmq.eval("application:set_env(rabbit, channel_max, 2047)")


@pytest.mark.parametrize("declare", ["true", "false"])
def test_two_channels_on_a_connection_are_enough(narrow: Lab, declare: str) -> None:
    if declare == "false":
        narrow.declare(**ONE)
    _serves(narrow, narrow.worker(declare=declare, handler=HASTY, **ONE))


def test_one_channel_on_a_connection_is_too_few_and_said_so(narrow: Lab, own_rabbitmq: RabbitMQ) -> None:
    own_rabbitmq.eval("application:set_env(rabbit, channel_max, 1)")
    worker = narrow.worker(wait=False, **ONE)
    assert worker.wait(60) == 1
    assert "allows too few channels on a connection (1)" in worker.output[-1]
    assert "Traceback" not in "".join(worker.output)


def test_who_serves_more_operations_than_channels_allow_is_told_to_serve_fewer(narrow: Lab) -> None:
    worker = narrow.worker(wait=False)
    assert worker.wait(60) == 1
    assert "allows too few channels on a connection (2): 2 are needed for each operation" in worker.output[-1]
    assert "SESSION_WORKER_OPERATIONS" in worker.output[-1]


def test_channels_beyond_those_allowed_on_a_connection_are_never_asked_for(narrow: Lab, user: str) -> None:
    """What may not be looked at costs a channel each time; their numbers are used again."""
    narrow.declare(**ONE)
    url = narrow.broker.add_user(user, "secret", narrow.vhost, "^$", ".*", ".*")
    worker = narrow.worker(amqp_url=url, declare="false", handler=HASTY, **ONE)
    _serves(narrow, worker)
