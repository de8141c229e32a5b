"""What comes off the socket: which frames are ours, which are aiormq's, and that none is lost or changed."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import AsyncMock

import aio_pika
import pamqp.frame
import pytest
from aiormq.connection import FrameReceiver
from aiormq.exceptions import AMQPConnectionError
from hypothesis import given
from hypothesis import strategies as st
from pamqp import commands as spec
from pamqp.body import ContentBody
from pamqp.heartbeat import Heartbeat

from session_client.net.brokers import NoBrokerError
from session_client.net.errors import ConnectError, LinkLostError
from session_worker.broker.connection import Connection
from session_worker.broker.frames import FrameReader

OURS, THEIRS = 1, 2


class Taker:
    """Takes every frame but ``basic.qos-ok``."""

    def __init__(self) -> None:
        self.taken: list[bytes] = []

    def feed(self, kind: int, payload: bytes) -> bool:
        if kind == 1 and payload[:4] == (60 << 16 | 11).to_bytes(4, "big"):
            return False
        self.taken.append(payload)
        return True


def reader(taker: Taker) -> tuple[asyncio.StreamReader, FrameReceiver]:
    stream = asyncio.StreamReader()
    frames_of = FrameReader(stream, {OURS: taker.feed})
    return stream, FrameReceiver(cast("asyncio.StreamReader", frames_of))


def opened(reader: object = None, writer: object = None, **aiormqs: object) -> Connection:
    """A connection without a socket; aiormq's has only what is given here."""
    closing = asyncio.get_running_loop().create_future()
    under = SimpleNamespace(connection=SimpleNamespace(closing=closing, **aiormqs))
    transport = SimpleNamespace(reader=reader, writer=writer, takers={})
    return Connection(cast("Any", SimpleNamespace(transport=under)), cast("Any", transport))


frames = st.lists(
    st.tuples(st.sampled_from([OURS, THEIRS]), st.none() | st.binary(min_size=1, max_size=40)), max_size=12
)


@given(frames=frames, cuts=st.lists(st.integers(1, 60), max_size=12))
def test_each_frame_reaches_its_reader_whole_and_in_order(
    frames: list[tuple[int, bytes | None]], cuts: list[int]
) -> None:
    """However the network cuts the stream. A frame is a body, or (None) a method that is left to aiormq."""

    async def play() -> tuple[list[bytes], list[tuple[int, bytes | None]]]:
        taker = Taker()
        stream, receiver = reader(taker)
        data = b"".join(
            pamqp.frame.marshal(spec.Basic.QosOk() if body is None else ContentBody(body), channel)
            for channel, body in frames
        )
        reading = asyncio.ensure_future(_read_all(receiver))
        for cut in cuts:
            stream.feed_data(data[:cut])
            data = data[cut:]
            await asyncio.sleep(0)
        stream.feed_data(data)
        stream.feed_eof()
        return taker.taken, await reading

    taken, left = asyncio.run(play())
    assert taken == [body for channel, body in frames if channel == OURS and body is not None]
    assert left == [(channel, body) for channel, body in frames if channel == THEIRS or body is None]


async def _read_all(receiver: FrameReceiver) -> list[tuple[int, bytes | None]]:
    found: list[tuple[int, bytes | None]] = []
    while True:
        try:
            _, channel, frame = await receiver.get_frame()
        except (AMQPConnectionError, StopAsyncIteration):
            return found
        if not isinstance(frame, Heartbeat):
            found.append((channel, cast("Any", frame).value if isinstance(frame, ContentBody) else None))


async def test_a_connection_that_only_delivers_shows_signs_of_life() -> None:
    """aiormq closes a connection on which it sees no frame for a while, and it sees none of ours."""
    stream, receiver = reader(Taker())
    stream.feed_data(pamqp.frame.marshal(ContentBody(b"x"), OURS) * 3)
    _, channel, frame = await asyncio.wait_for(receiver.get_frame(), 5)
    assert (channel, type(frame)) == (0, Heartbeat)


async def test_whatever_the_broker_sends_is_heard() -> None:
    """Also what aiormq is not shown, and a heartbeat."""
    stream = asyncio.StreamReader()
    raw = FrameReader(stream, {OURS: Taker().feed})
    connection = opened(reader=raw)
    reading = asyncio.create_task(_read_all(FrameReceiver(cast("asyncio.StreamReader", raw))))
    for frame, channel in ((ContentBody(b"x"), OURS), (ContentBody(b"y"), OURS), (Heartbeat(), 0)):
        before = connection.heard
        await asyncio.sleep(0)
        assert connection.heard == before
        stream.feed_data(pamqp.frame.marshal(frame, channel))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert connection.heard > before
    stream.feed_eof()
    await reading


async def test_a_connection_that_does_not_come_about_is_not_closed_once_more_as_garbage(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """aio-pika's would begin to, in the thread that happens to collect it."""
    made: list[aio_pika.Connection] = []

    class Noted(aio_pika.Connection):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            made.append(self)

    monkeypatch.setattr("aio_pika.Connection", Noted)
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(ConnectError):
            await Connection.open([f"amqp://127.0.0.1:{port}/"], "test")
    assert [each.is_closed for each in made] == [True]


async def test_an_alarm_is_noted_and_its_frames_are_left_to_aiormq() -> None:
    """aiormq stops writing during an alarm, and tells nobody."""
    connection = opened()
    seen: list[bool] = []
    connection.watchers.append(lambda: seen.append(connection.blocked))
    take = connection._transport.takers[0]
    for frame in (spec.Connection.Blocked("low on memory"), Heartbeat(), spec.Connection.Unblocked()):
        data = pamqp.frame.marshal(frame, 0)
        assert not take(data[0], data[7:-1])
    assert seen == [True, False]


@pytest.mark.parametrize(("heartbeat", "silence"), [(10, 15.0), (60, 90.0), (0, None)])
async def test_silence_is_judged_by_the_interval_of_heartbeats(heartbeat: int, silence: float | None) -> None:
    assert opened(heartbeat_timeout=heartbeat).longest_silence == silence


async def test_writing_to_a_socket_that_was_closed_unnoticed_is_a_lost_link() -> None:
    """uvloop's transport raises RuntimeError then; it must not end the worker that puts its link away."""

    class Closed:
        def write(self, _: bytes) -> None:
            raise RuntimeError("the handler is closed")

    with pytest.raises(LinkLostError):
        opened(writer=Closed()).write(b"frames")


async def test_waiting_for_an_answer_ends_at_once_when_the_connection_is_lost() -> None:
    """aiormq lets some wait for their whole timeout, and the worker would connect again only then."""
    connection = opened()
    cancelled = asyncio.Event()

    async def answer() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    asyncio.get_running_loop().call_soon(connection.lose, "reset")

    with pytest.raises(LinkLostError, match="reset"):
        await connection.unless_lost(answer())
    assert cancelled.is_set()


@pytest.mark.parametrize("order", [(True, False), (False, True)])
async def test_trying_again_helps_while_one_broker_of_a_cluster_may_come(
    order: tuple[bool, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One refuses the login, another does not answer yet: the worker waits for that one."""
    failures: list[LinkLostError] = [ConnectError("no", permanent=permanent) for permanent in order]
    connect = AsyncMock(side_effect=NoBrokerError(failures))
    monkeypatch.setattr("session_worker.broker.connection.first_to_open", connect)
    with pytest.raises(ConnectError) as failed:
        await Connection.open(["amqp://one/", "amqp://other/"], "test")
    assert not failed.value.permanent
