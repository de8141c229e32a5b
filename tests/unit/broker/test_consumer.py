"""Acknowledging in bulk, checked against the broker's own rules; and what becomes of a delivered message."""

import asyncio
from collections.abc import Sequence
from hashlib import sha256
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pamqp import commands as spec
from pamqp.body import ContentBody
from pamqp.header import ContentHeader

from session_client.net.errors import LinkLostError
from session_worker.broker import frames
from session_worker.broker.consumer import Consumer
from session_worker.messages.delivery import CUT_BYTES, Cut, Delivery, Lane
from tests.unit.broker.fake_connection import FakeConnection, as_connection, breathe, feed, open_channel


class Broker:
    """RabbitMQ's rules: an unknown or settled tag closes the channel, ``multiple`` means all up to it."""

    def __init__(self, deliveries: int) -> None:
        self.unacknowledged = set(range(1, deliveries + 1))
        self.acknowledged: list[int] = []
        self.requeued: list[int] = []

    def receive(self, frame: Any) -> None:
        assert frame.delivery_tag in self.unacknowledged, "406 PRECONDITION_FAILED - unknown delivery tag"
        tags = [frame.delivery_tag]
        if frame.multiple:
            tags = [tag for tag in self.unacknowledged if tag <= frame.delivery_tag]
        self.unacknowledged.difference_update(tags)
        if isinstance(frame, spec.Basic.Ack):
            self.acknowledged += tags
        else:
            assert isinstance(frame, spec.Basic.Nack)
            assert frame.requeue
            self.requeued += tags


async def _channel(lane: Lane = Lane.WORK, *, delivered: int = 0) -> tuple[Consumer, FakeConnection]:
    """A channel by which so many deliveries came."""
    connection = FakeConnection()
    channel = open_channel(Consumer)
    channel.parent, channel.lane, channel.queue = as_connection(connection), lane, "session.create"
    channel.max_body_bytes = 10_000
    for tag in range(1, delivered + 1):
        feed(channel, spec.Basic.Deliver("ctag", tag, exchange="", routing_key=""))
    return channel, connection


@given(
    order=st.integers(1, 12).flatmap(lambda count: st.permutations(range(1, count + 1))),
    requeued=st.sets(st.integers(1, 12)),
    pauses=st.sets(st.integers(0, 12)),
    unsettled=st.sets(st.integers(1, 12), max_size=3),
)
def test_each_tag_is_settled_once_and_as_it_was_asked_for(
    order: Sequence[int], requeued: set[int], pauses: set[int], unsettled: set[int]
) -> None:
    """Any order of acks and requeues, flushed at any moment, replayed against the broker's rules."""

    async def play() -> Broker:
        channel, connection = await _channel(delivered=len(order))
        for step, tag in enumerate(order):
            if tag not in unsettled:
                channel.requeue(tag) if tag in requeued else channel.ack(tag)
            if step in pauses:
                await breathe()
        await breathe()
        broker = Broker(len(order))
        for frame in connection.frames():
            broker.receive(frame)
        return broker

    broker = asyncio.run(play())
    settled = set(order) - unsettled
    assert sorted(broker.acknowledged) == sorted(settled - requeued)
    assert sorted(broker.requeued) == sorted(settled & requeued)
    assert broker.unacknowledged == set(order) & unsettled


async def test_what_is_done_at_the_same_time_in_one_run_takes_one_frame() -> None:
    channel, connection = await _channel(delivered=4)
    for tag in (3, 1, 2, 4):
        channel.ack(tag)
    assert connection.written == []
    await breathe()
    (frame,) = connection.frames()
    assert (frame.delivery_tag, frame.multiple) == (4, True)


async def test_an_ack_beyond_unsettled_deliveries_does_not_settle_them() -> None:
    channel, connection = await _channel(delivered=4)
    channel.ack(2)
    await breathe()
    channel.ack(1)
    channel.ack(4)
    await breathe()
    channel.ack(3)
    await breathe()
    frames = [(frame.delivery_tag, frame.multiple) for frame in connection.frames()]
    assert frames == [(2, False), (1, True), (4, False), (3, True)]


async def test_settled_tags_are_forgotten() -> None:
    """Not even while the oldest delivery of all still waits for its handler."""
    channel, _ = await _channel(delivered=100)
    for tag in range(2, 101):
        channel.requeue(tag) if tag % 7 == 0 else channel.ack(tag)
        if tag % 10 == 0:
            await breathe()
    channel.flush()
    assert (channel._done, list(channel._open)) == (set(), [1])


async def test_settling_on_a_connection_that_has_just_ended_raises_nothing() -> None:
    """It was lost and nobody told yet: the broker has the messages back, and the link will be built again."""
    channel, connection = await _channel(delivered=2)

    def gone(frames: bytes) -> None:
        raise LinkLostError("the connection was lost")

    connection.write = gone  # type: ignore[method-assign]
    channel.ack(1)
    channel.requeue(2)
    channel.flush()
    assert not channel._open


async def test_nothing_is_written_on_a_lost_link() -> None:
    """The broker has the messages back already: their tags mean nothing any more."""
    channel, connection = await _channel(delivered=2)
    channel.ack(1)
    connection.lose("reset")
    channel.requeue(2)
    await breathe()
    assert connection.written == []
    assert not channel.valid


# ------------------------------------------------------------------------------------- what comes in


async def _delivered(header: ContentHeader, body: Sequence[bytes], lane: Lane = Lane.WORK) -> Delivery:
    channel, connection = await _channel(lane)
    found: list[Delivery] = []
    channel.deliver = found.append
    deliver = spec.Basic.Deliver("requests", 7, redelivered=True, exchange="", routing_key="x")
    for frame in (deliver, header, *map(ContentBody, body)):
        assert not found
        feed(channel, frame)
    (delivery,) = found
    delivery.receipt.ack()
    await breathe()
    assert [frame.delivery_tag for frame in connection.frames()] == [7]
    return delivery


async def test_delivery_carries_body_and_properties() -> None:
    properties = spec.Basic.Properties(
        correlation_id="c",
        reply_to="r",
        message_id="m",
        content_type="application/json",
        content_encoding="utf-8",
        message_type="CreateSessionRequest",
        expiration="5",
        headers={"x-request-id": "7"},
    )
    delivery = await _delivered(ContentHeader(body_size=5, properties=properties), [b"he", b"llo"])
    assert (delivery.body, delivery.lane, delivery.queue) == (b"hello", Lane.WORK, "session.create")
    assert (delivery.illegible, delivery.redelivered, delivery.expired) == ("", True, False)
    assert (delivery.correlation_id, delivery.reply_to, delivery.message_id) == ("c", "r", "m")
    assert (delivery.content_type, delivery.content_encoding, delivery.type) == (
        "application/json",
        "utf-8",
        "CreateSessionRequest",
    )
    assert (delivery.expiration, dict(delivery.headers)) == ("5", {"x-request-id": "7"})


def _with(name: str, data: bytes) -> bytes:
    """A content header in which one property is these bytes, beside those that an answer needs."""
    flags, parts = 0, []
    for bit, each, _, read in frames._PROPERTIES:
        if each == name:
            value = data
        elif each in ("reply_to", "correlation_id"):
            value = b"\x04call"
        else:
            continue
        assert read is not None
        flags |= bit
        parts.append(value)
    return b"\x00\x3c\x00\x00" + (2).to_bytes(8, "big") + flags.to_bytes(2, "big") + b"".join(parts)


@pytest.mark.parametrize(
    ("name", "data", "needed"),
    [
        ("content_type", b"\x01\xff", True),
        ("expiration", b"\xff", True),  # says that it is longer than all there is
        ("message_id", b"\x02\xff\xfe", False),
        ("type", b"\x01\xff", False),
        ("headers", b"\x00\x00\x00\x05\x02\xff\xfeV\x00", False),
        ("timestamp", b"\xff" * 8, False),
    ],
)
async def test_the_sender_of_a_property_that_cannot_be_decoded_can_be_answered(
    name: str, data: bytes, needed: bool
) -> None:
    """The body is kept, and so is where the answer goes. Only a property that is needed is complained of."""
    channel, _ = await _channel(delivered=1)
    delivered: list[Delivery] = []
    channel.deliver = delivered.append
    channel.feed(2, _with(name, data))
    channel.feed(3, b"{}")
    (delivery,) = delivered
    assert (delivery.illegible, delivery.body, getattr(delivery, name, None)) == (
        name if needed else "",
        b"{}",
        {} if name == "headers" else None,
    )
    assert (delivery.reply_to, delivery.correlation_id) == ("call", "call")


async def test_empty_body_is_delivered_without_waiting_for_one() -> None:
    assert (await _delivered(ContentHeader(body_size=0), [])).body == b""


async def test_body_that_is_too_large_is_not_kept() -> None:
    """256 of the largest bodies in flight would be the end of the worker: only what they were is kept."""
    parts = [bytes([number]) * 3000 for number in range(5)]
    delivery = await _delivered(ContentHeader(body_size=15_000), parts)
    assert delivery.body == b"".join(parts)[:CUT_BYTES]
    assert delivery.cut == Cut(15_000, sha256(b"".join(parts)).hexdigest())
    assert (await _delivered(ContentHeader(body_size=10_000), [b"x" * 10_000])).cut is None


async def test_what_was_cut_before_stays_what_it_was() -> None:
    """A copy of a cut body that comes round again is refused for the same reason, with the same digest."""
    headers: Any = {"x-body-bytes": 15_000, "x-body-sha256": "abc"}
    header = ContentHeader(body_size=2, properties=spec.Basic.Properties(headers=headers))
    assert (await _delivered(header, [b"{}"])).cut == Cut(15_000, "abc")
    headers["x-body-bytes"] = 9_000
    assert (await _delivered(header, [b"{}"])).cut is None


DIED = {"reason": "expired", "queue": "session.create", "count": 1}


@pytest.mark.parametrize(
    ("deaths", "expired"),
    [
        ([DIED], True),
        ([DIED, DIED | {"reason": "delivery_limit"}], True),
        ([DIED | {"reason": "delivery_limit"}, DIED], False),
        ([], False),
        ("expired", False),
        (["expired"], False),
        ({"reason": "expired"}, False),
        (None, False),
        ([[DIED]], False),
    ],
)
async def test_newest_death_says_whether_a_message_expired_and_only_in_the_slow_lane(
    deaths: object, expired: bool
) -> None:
    """A requester may put anything into ``x-death``; in the work queue it is not looked at."""
    headers: Any = {"x-death": deaths}
    header = ContentHeader(body_size=0, properties=spec.Basic.Properties(headers=headers))
    assert (await _delivered(header, [], Lane.SLOW)).expired is expired
    assert (await _delivered(header, [], Lane.WORK)).expired is False


@pytest.mark.parametrize(
    ("deaths", "expiration"),
    [
        ([DIED | {"reason": "delivery_limit", "original-expiration": "5000"}], "5000"),
        ([DIED | {"reason": "delivery_limit"}, DIED | {"original-expiration": "5000"}], None),
        ("5000", None),
    ],
)
async def test_slow_lane_has_the_expiration_that_the_broker_took_off(
    deaths: object, expiration: str | None
) -> None:
    headers: Any = {"x-death": deaths}
    header = ContentHeader(body_size=0, properties=spec.Basic.Properties(headers=headers))
    assert (await _delivered(header, [], Lane.SLOW)).expiration == expiration
    assert (await _delivered(header, [], Lane.WORK)).expiration is None
    header.properties.expiration = "7"
    assert (await _delivered(header, [], Lane.SLOW)).expiration == "7"


async def test_consumer_that_the_broker_cancels_loses_the_link() -> None:
    channel, connection = await _channel()
    channel._on_cancelled(None)
    assert "cancelled the consumer" in connection.lost.result()
