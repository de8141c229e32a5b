"""Limits of the broker that are reached are told as limits, by everybody who meets them."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

import aiormq
import pytest

from session_client import ConnectionFailed, SessionClient
from session_contracts import Names
from session_worker.broker.connection import Connection
from session_worker.broker.topology import Topology, TopologyError
from session_worker.operators.doctor.broker import difference
from tests.broker.test_worker_lifetime import last_words

if TYPE_CHECKING:
    from tests.support.lab import Lab

LIMIT = "queue limit in vhost '{}' (0) is reached"


def test_a_vhost_that_takes_no_more_queues_is_told_as_such(lab: Lab) -> None:
    """To who applies the topology, to a worker and to a client; none is told to delete what is not there."""
    lab.broker.limit(lab.vhost, "max-queues", 0)

    async def apply() -> TopologyError:
        connection = await Connection.open([lab.url], "test")
        try:
            with pytest.raises(TopologyError) as refused:
                await Topology.of(Names(), [1]).apply(connection)
        finally:
            await connection.close()
        return refused.value

    async def ask() -> str:
        with pytest.raises(ConnectionFailed) as failed:
            await SessionClient(lab.url).open()
        return str(failed.value)

    applied, asked = asyncio.run(apply()), asyncio.run(ask())
    started = last_words(lab.worker(wait=False))
    for words in (str(applied), asked, started):
        assert LIMIT.format(lab.vhost) in words
        assert "rabbitmqctl set_vhost_limits" in words
        assert "delete" not in words
        assert "other arguments" not in words
    result = difference("queue session.create.dead", applied)
    assert "limit" in result.found
    assert str(result.fix).startswith("raise it")


def test_a_vhost_that_takes_no_more_connections_is_told_as_such(lab: Lab) -> None:
    """The vhost is there, and the user may enter it."""
    lab.broker.limit(lab.vhost, "max-connections", 0)
    words = last_words(lab.worker(wait=False), 30)
    assert "takes no more connections" in words
    assert "limit (0) is reached" in words


async def test_a_queue_that_another_connection_has_for_itself_is_told_as_such(amqp_url: str) -> None:
    """It cannot be deleted by anybody else, and is not to be."""
    owner = await aiormq.connect(amqp_url)
    connection = await Connection.open([amqp_url], "test")
    try:
        await (await owner.channel()).queue_declare("session.create.dead", exclusive=True)
        with pytest.raises(TopologyError, match="another connection has it for itself") as refused:
            await Topology.of(Names(), [1]).apply(connection)
        assert "queue session.create.dead: " in str(refused.value)
        assert "delete" not in str(refused.value)
        found = [part async for part in Topology.of(Names(), [1]).inspect(connection)]
        assert "another connection" in str(found[1].trouble)
    finally:
        await connection.close()
        await owner.close()


async def test_a_binding_to_an_exchange_that_is_not_there_names_the_exchange(amqp_url: str) -> None:
    """The queue, which is there, is not said to be missing."""
    topology = Topology.of(Names(), [1])
    connection = await Connection.open([amqp_url], "test")
    try:
        await topology.apply(connection)
        elsewhere = replace(topology, exchange="elsewhere")
        with pytest.raises(TopologyError, match=r"^exchange elsewhere: missing; "):
            async with connection.channel() as channel:
                await elsewhere._bind(channel, elsewhere.operations[0])
    finally:
        await connection.close()
