"""Policies that void the promise: what they do at a real broker, and that doctor names them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from uuid import uuid4

import aio_pika
import aiormq
import aiormq.exceptions
import pytest

from session_contracts import Names
from session_worker.broker.connection import Connection
from session_worker.broker.topology import Topology
from session_worker.operators.doctor import management
from session_worker.operators.doctor.result import State
from session_worker.operators.operations import known
from session_worker.settings import Settings, load
from tests.support.servers import RabbitMQ
from tests.support.waiting import soon

if TYPE_CHECKING:
    from collections.abc import Iterator

    from session_worker.operators.doctor import Result

WORK, RETRY, REPLIES = "session.create", "session.create.retry.1s", "session.replies"


@pytest.fixture(scope="module")
def node() -> Iterator[RabbitMQ]:
    with RabbitMQ(management=True) as node:
        yield node


@pytest.fixture
def settings(node: RabbitMQ) -> Iterator[Settings]:
    """Those of a worker whose queues are declared."""
    vhost = f"test-{uuid4().hex[:12]}"
    url = node.vhost(vhost)

    async def declare() -> None:
        connection = await Connection.open([url], "test")
        try:
            await Topology.of(Names(), [1]).apply(connection)
        finally:
            await connection.close()

    asyncio.run(declare())
    yield load(amqp_url=url, management_url=node.management_url, retry_delays="1")
    node.delete_vhost(vhost)


def set_policy(node: RabbitMQ, settings: Settings, definition: str, *, operator: bool = False) -> None:
    """``definition``: in Erlang."""
    vhost = urlsplit(settings.amqp_urls[0]).path[1:]
    node.eval(
        f'ok = rabbit_policy:{"set_op" if operator else "set"}(<<"{vhost}">>, <<"everywhere">>, <<".*">>, '
        f'[{definition}], 0, <<"queues">>, <<"sandbox">>)'
    )


def look(settings: Settings) -> list[Result]:
    return asyncio.run(management.examine(settings, known(settings)))


def warned(settings: Settings) -> list[Result]:
    """What doctor warns of as soon as the broker has gathered what it tells."""
    found: list[Result] = []

    def is_told() -> bool:
        found[:] = [each for each in look(settings) if each.state is State.WARNING]
        return bool(found)

    soon(is_told, 30)
    return found


def test_messages_of_an_operation_that_nobody_serves_are_warned_of(settings: Settings) -> None:
    """Once the broker has counted them."""

    async def leave_one() -> None:
        connection = await Connection.open(settings.amqp_urls, "test")
        await Topology.of(Names().of("extend_session"), [1]).apply(connection)
        async with connection.channel() as channel:
            await channel.default_exchange.publish(aio_pika.Message(b"{}"), "session.extend_session.dead")
        await connection.close()

    asyncio.run(leave_one())
    [told] = warned(settings)
    assert told.name == "operation extend_session"
    assert "1 message waits in 4 of its queues" in told.found


def test_without_policies_all_is_well(settings: Settings) -> None:
    soon(lambda: [each.state for each in look(settings)] == [State.OK], 30)


@pytest.mark.parametrize("operator", [False, True], ids=["policy", "operator policy"])
def test_a_policy_that_takes_messages_away_is_named_for_each_queue(
    node: RabbitMQ, settings: Settings, operator: bool
) -> None:
    """A retry queue has a shorter time than the policy gives, and keeps it; the smaller number counts."""
    set_policy(node, settings, '{<<"message-ttl">>, 5000}', operator=operator)
    soon(lambda: len(warned(settings)) == 4, 30)
    found = warned(settings)
    told = " ".join(each.found for each in found)
    assert "message-ttl of queue session.create to 5000" in told
    assert f"message-ttl of queue {REPLIES} to 5000" in told
    assert RETRY not in told
    command = "list_operator_policies" if operator else "list_policies"
    assert all(f"rabbitmqctl {command} -p test-" in str(each.fix) for each in found)
    assert all(("operator policy everywhere" in each.found) is operator for each in found)


def test_the_overflow_of_a_policy_wins_over_that_of_the_queue(node: RabbitMQ, settings: Settings) -> None:
    """So the broker confirms what it throws away."""
    set_policy(node, settings, '{<<"overflow">>, <<"drop-head">>}, {<<"max-length">>, 1}')

    async def publish() -> int:
        connection = await aiormq.connect(settings.amqp_urls[0])
        try:
            channel = await connection.channel()
            for _ in range(5):
                await channel.basic_publish(b"{}", exchange="", routing_key=WORK)
            return (await channel.queue_declare(WORK, passive=True)).message_count or 0
        finally:
            await connection.close()

    def lost() -> bool:
        try:
            return asyncio.run(publish()) == 1
        except aiormq.exceptions.DeliveryError:  # half of the policy is in effect
            return False

    soon(lost, 30)
    told = {each.found.partition(": ")[0] for each in warned(settings)}
    assert f"policy everywhere sets overflow of queue {WORK} to drop-head" in told
    assert f"policy everywhere sets max-length of queue {WORK} to 1" in told
    assert not any("overflow of queue session.replies" in each for each in told), "that one drops anyway"


def test_a_user_who_may_not_look_is_told_what_is_missing(node: RabbitMQ, settings: Settings) -> None:
    vhost = urlsplit(settings.amqp_urls[0]).path[1:]
    name = f"user-{uuid4().hex[:8]}"
    url = node.add_user(name, "s3cret", vhost, ".*", ".*", ".*")
    [told] = look(load(amqp_url=url, management_url=node.management_url))
    assert told.state is State.FAILED
    assert f"refuses user {name}" in told.found
    assert "monitoring" in str(told.fix)
    [told] = look(load(amqp_url=url, management_url=f"http://127.0.0.1:{node.port}"))
    assert "is not RabbitMQ's" in told.found, "that is the port of AMQP"
    named = node.management_url.replace("//", f"//{name}:wr%40ng@")
    [told] = look(load(amqp_url=settings.amqp_urls[0], management_url=named))
    assert f"refuses user {name}" in told.found
    assert "wr" not in repr(told)
