"""What the queues are declared with. Arguments cannot be changed later, so each is here for a reason."""

from __future__ import annotations

import pytest

from session_contracts import Names
from session_worker.broker.topology import NO_LIMIT, WORK_LIMIT, Queue, Topology
from session_worker.messages.delivery import SLOW_LANE_LIMIT

TOPOLOGY = Topology.of(Names(), (1, 30))
QUEUES = {queue.name: queue for queue in TOPOLOGY.queues}
BY_NAME = pytest.mark.parametrize("queue", TOPOLOGY.queues, ids=QUEUES)


@BY_NAME
def test_every_queue_says_its_type_and_its_delivery_limit(queue: Queue) -> None:
    """Without the type a vhost's default decides; without the limit RabbitMQ 4 deletes at the 21st delivery,
    even of a letter that somebody only looks at, and -1 means a single delivery on 3.10."""
    assert queue.arguments["x-queue-type"] == "quorum"
    limits = {"session.create": WORK_LIMIT, "session.create.undelivered": SLOW_LANE_LIMIT}
    assert queue.arguments["x-delivery-limit"] == limits.get(queue.name, NO_LIMIT)


@BY_NAME
def test_dead_letters_go_to_a_named_queue_and_are_not_lost_on_the_way(queue: Queue) -> None:
    """At-least-once needs reject-publish; without a routing key a requester's CC would choose."""
    target = {
        "session.create": "session.create.undelivered",
        "session.create.undelivered": "session.create.dead",
        "session.create.retry.1s": "session.create",
        "session.create.retry.30s": "session.create",
    }.get(queue.name)
    if target is None:
        assert not any(name.startswith("x-dead-letter") for name in queue.arguments)
        return
    assert target in QUEUES
    assert queue.arguments["x-dead-letter-exchange"] == ""
    assert queue.arguments["x-dead-letter-routing-key"] == target
    assert queue.arguments["x-dead-letter-strategy"] == "at-least-once"
    assert queue.arguments["x-overflow"] == "reject-publish"


def test_operations_share_the_exchange_and_the_default_replies_and_nothing_else() -> None:
    """Each has the queues that `create` has, under its own name; one that only reads has no retry queues."""
    create, get = Names(), Names().of("get")
    both = Topology.joined([Topology.of(create, (1, 30)), Topology.of(get, ())])
    assert both.queues[: len(TOPOLOGY.queues) - 1] == TOPOLOGY.queues[:-1]
    others = [queue.name for queue in both.queues if queue not in TOPOLOGY.queues]
    assert others == [get.dead, get.undelivered, get.work]
    assert [queue.name for queue in both.queues].count(create.replies) == 1
    assert [(each.work, each.routing_key) for each in both.operations] == [
        ("session.create", "create"),
        ("session.get", "get"),
    ]


def test_each_delay_has_a_queue_that_holds_a_message_so_long() -> None:
    """The name tells the seconds, the argument the milliseconds."""
    delays = {
        name: queue.arguments.get("x-message-ttl") for name, queue in QUEUES.items() if ".retry." in name
    }
    assert delays == {"session.create.retry.1s": 1000, "session.create.retry.30s": 30_000}


def test_queues_that_perhaps_nobody_empties_are_bounded() -> None:
    """The parking lot refuses when it is full, and loses nothing; default replies lose the oldest."""
    dead, replies = QUEUES["session.create.dead"].arguments, QUEUES["session.replies"].arguments
    assert (dead["x-max-length-bytes"] > 0, dead["x-overflow"]) == (True, "reject-publish")
    assert (replies["x-max-length-bytes"] > 0, replies["x-overflow"]) == (True, "drop-head")
    assert replies["x-message-ttl"] > 0


def test_a_queue_is_declared_after_the_one_it_hands_over_to() -> None:
    """Otherwise what dies in between would have nowhere to go; the retry queues start empty."""
    names = list(QUEUES)
    for queue in TOPOLOGY.queues:
        target = queue.arguments.get("x-dead-letter-routing-key")
        assert target is None or names.index(target) < names.index(queue.name)


@BY_NAME
def test_every_declared_queue_counts_as_ours(queue: Queue) -> None:
    """A requester may have no reply sent there, and one that is deleted is declared again."""
    assert Names().is_ours(queue.name)
