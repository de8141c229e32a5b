"""Exchange and bindings, by which requests come, are put back when somebody deletes them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pika
import pytest
from pika.exceptions import ChannelClosedByBroker
from pydantic import SecretStr

from session_contracts import Names
from session_worker.broker import link
from session_worker.broker.link import Link
from session_worker.broker.topology import Topology
from session_worker.settings import Settings
from session_worker.telemetry.events import EntranceNotKept, unheard
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable

    from pika.adapters.blocking_connection import BlockingChannel

    from session_worker.telemetry.events import Emit, Event

NAMES = Names()
OTHER = NAMES.of("close")


def _at_the_broker(url: str, act: Callable[[BlockingChannel], object]) -> None:
    connection = pika.BlockingConnection(pika.URLParameters(url))
    try:
        act(connection.channel())
    finally:
        if connection.is_open:
            connection.close()


def _is_open(url: str) -> bool:
    """Whether the requests of both operations that are published to the exchange reach a queue."""

    def publish(channel: BlockingChannel) -> None:
        channel.confirm_delivery()
        for names in (NAMES, OTHER):
            channel.basic_publish(names.exchange, names.routing_key, b"{}", mandatory=True)

    try:
        _at_the_broker(url, publish)
    except (ChannelClosedByBroker, pika.exceptions.UnroutableError):
        return False
    return True


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "ENTRANCE_SECONDS", 0.05)


async def _link(url: str, emit: Emit = unheard) -> Link:
    settings = Settings(amqp_url=SecretStr(url))
    topology = Topology.joined([Topology.of(names, settings.retry_delays) for names in (NAMES, OTHER)])
    return await Link.build(settings, topology, emit)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    "delete",
    [
        lambda channel: channel.exchange_delete(NAMES.exchange),
        lambda channel: channel.queue_unbind(NAMES.work, NAMES.exchange, NAMES.routing_key),
        lambda channel: channel.queue_unbind(OTHER.work, OTHER.exchange, OTHER.routing_key),
    ],
    ids=["exchange", "binding", "other operation's binding"],
)
async def test_a_deleted_exchange_or_binding_is_put_back(
    amqp_url: str, delete: Callable[[BlockingChannel], object]
) -> None:
    """Nobody is told that it is gone: requesters would go on being refused by a worker that looks well."""
    built = await _link(amqp_url)
    try:
        await asyncio.to_thread(_at_the_broker, amqp_url, delete)
        async with asyncio.timeout(20):
            while not await asyncio.to_thread(_is_open, amqp_url):
                await asyncio.sleep(0.05)
    finally:
        await built.close()


@pytest.mark.usefixtures("quick")
async def test_an_exchange_that_cannot_be_put_back_is_told_once_and_costs_no_link(amqp_url: str) -> None:
    """What is in the queues can be served; the worker is not ready, and says why, until it is put right."""
    told: list[Event] = []
    built = await _link(amqp_url, told.append)
    lost = asyncio.create_task(built.lost())
    try:

        def replace(channel: BlockingChannel) -> None:
            channel.exchange_delete(NAMES.exchange)
            channel.exchange_declare(NAMES.exchange, "fanout")

        await asyncio.to_thread(_at_the_broker, amqp_url, replace)
        await eventually(lambda: "exchange session: exists with other arguments" in built.entrance)
        await asyncio.to_thread(
            _at_the_broker, amqp_url, lambda channel: channel.exchange_delete(NAMES.exchange)
        )
        await eventually(lambda: not built.entrance)
        assert not lost.done()
        assert [type(event) for event in told] == [EntranceNotKept]
    finally:
        lost.cancel()
        await built.close()
