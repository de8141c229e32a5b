"""The socket under a connection of aiormq."""

from __future__ import annotations

import asyncio
from unittest.mock import Mock

import pamqp.frame
import pytest
from pamqp import commands as spec
from pamqp.heartbeat import Heartbeat
from yarl import URL

from session_client.net.brokers import Broker
from session_client.net.errors import ConnectError
from session_client.net.transport import FrameReader, Transport

MQ = Broker(URL("amqp://mq/"), "the URL", 0.05)


@pytest.mark.parametrize("error", [AttributeError("'NoneType' has no '_abort'"), RuntimeError("closed")])
async def test_a_connection_that_is_closed_already_can_be_aborted(error: Exception) -> None:
    """Python 3.11.2, when TLS was closed twice, and uvloop raise these."""
    writer = Mock()
    writer.transport.abort.side_effect = error
    stuck = Transport(MQ, None, Mock())
    stuck.writer = writer
    stuck.abort()
    writer.transport.abort.assert_called_once()


async def test_a_handshake_that_ends_in_silence_is_bounded_and_cuts_the_connection() -> None:
    connected = Mock()
    with pytest.raises(ConnectError, match=r"the broker at mq:5672 did not answer within 0\.05 s"):
        async with Transport(MQ, None, connected).opening():
            await asyncio.Event().wait()
    connected.close.assert_called_once()


async def test_a_handshake_that_is_cancelled_cuts_the_connection() -> None:
    connected = Mock()

    async def shake_hands() -> None:
        async with Transport(MQ, None, connected).opening():
            await asyncio.Event().wait()

    task = asyncio.create_task(shake_hands())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    connected.close.assert_called_once()


async def test_the_brokers_last_words_are_kept_and_whatever_it_sends_is_heard() -> None:
    stream = asyncio.StreamReader()
    reader = FrameReader(stream)
    heard = [reader.heard]
    for frame in (Heartbeat(), spec.Connection.Close(320, "CONNECTION_FORCED - bye", 0, 0)):
        data = pamqp.frame.marshal(frame, 0)
        stream.feed_data(data)
        for count in (1, 6, len(data) - 7):  # as aiormq reads
            await reader.readexactly(count)
        heard.append(reader.heard)
    assert heard == sorted(set(heard))
    assert reader.farewell == "CONNECTION_FORCED - bye"
