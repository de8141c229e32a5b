"""Publishing with confirms: whose confirm it is, what a lost channel means, and for whom."""

import asyncio
from dataclasses import dataclass
from typing import Any, Literal
from uuid import UUID

import pytest
from aiormq.exceptions import ConnectionClosed, ConnectionFrameError
from hypothesis import given
from hypothesis import strategies as st
from pamqp import commands as spec
from pamqp.body import ContentBody
from pamqp.header import ContentHeader

from session_client.net.errors import ConnectError, LinkLostError
from session_worker.broker import backoff, confirms, frames, publisher
from session_worker.broker.confirms import ChannelLostError, ConfirmChannel
from session_worker.broker.publisher import Publisher
from session_worker.messages.errors import (
    NackedError,
    NotConnectedError,
    PublishError,
    TooLongError,
    UnconfirmedError,
    UnroutableError,
    UnsendableError,
)
from session_worker.messages.message import Message, Properties
from tests.unit.broker.fake_connection import FakeConnection, as_connection, breathe, feed, open_channel

DIRECT = "amq.rabbitmq.reply-to.g1h2"
Fate = Literal["ack", "nack", "unroutable", "unencodable"]
TAKEN: dict[Fate, type[PublishError] | None] = {
    "ack": None,
    "nack": NackedError,
    "unroutable": UnroutableError,
    "unencodable": UnsendableError,
}


def _message(queue: str = "q", body: bytes = b"{}", *, mandatory: bool = True, **properties: Any) -> Message:
    return Message(queue, body, Properties(**properties), mandatory)


def _open() -> tuple[ConfirmChannel, FakeConnection]:
    connection = FakeConnection()
    channel = open_channel(ConfirmChannel)
    channel.parent = as_connection(connection)
    return channel, connection


async def _confirm(channel: ConfirmChannel, tag: int, *, nack: bool = False, multiple: bool = False) -> None:
    feed(channel, (spec.Basic.Nack if nack else spec.Basic.Ack)(tag, multiple))


async def _return(channel: ConfirmChannel, header: ContentHeader) -> None:
    feed(channel, spec.Basic.Return(312, "NO_ROUTE", "", "q"))
    feed(channel, ContentHeader(properties=header.properties, body_size=2))
    feed(channel, ContentBody(b"{}"))


async def _outcome(confirmed: asyncio.Future[None]) -> type[BaseException] | None:
    async with asyncio.timeout(5):
        (result,) = await asyncio.gather(confirmed, return_exceptions=True)
    return None if result is None else type(result)


# --------------------------------------------------------------------------------------- the channel


@dataclass
class Broker:
    """Numbers what arrives from 1, as the broker does, and answers for each message as its fate says."""

    channel: ConfirmChannel
    connection: FakeConnection
    fates: list[Fate]

    async def confirm(self, plan: list[tuple[int, bool]]) -> None:
        arrived = [frame for frame in self.connection.frames() if isinstance(frame, ContentHeader)]
        assert len(arrived) == len(self.fates)
        open_tags = set(range(1, len(arrived) + 1))
        for tag, multiple in [*plan, *((tag, False) for tag in range(1, len(arrived) + 1))]:
            if tag not in open_tags:
                continue
            covered = sorted(other for other in open_tags if other <= tag) if multiple else [tag]
            if len({self.fates[other - 1] == "nack" for other in covered}) > 1:
                covered, multiple = [tag], False
            open_tags.difference_update(covered)
            for other in covered:
                if self.fates[other - 1] == "unroutable":
                    await _return(self.channel, arrived[other - 1])
            await _confirm(self.channel, tag, nack=self.fates[tag - 1] == "nack", multiple=multiple)


@given(
    fates=st.lists(st.sampled_from(list(TAKEN)), min_size=1, max_size=12),
    plan=st.lists(st.tuples(st.integers(1, 12), st.booleans()), max_size=12),
)
def test_each_message_gets_its_own_answer_in_whatever_order_and_bulk_the_broker_confirms(
    fates: list[Fate], plan: list[tuple[int, bool]]
) -> None:
    """Messages that cannot be encoded take no tag, so those after them keep theirs."""

    async def play() -> list[type[BaseException] | None]:
        channel, connection = _open()
        sent: list[asyncio.Future[None] | type[BaseException]] = []
        for fate in fates:
            try:
                sent.append(
                    channel.send(_message(correlation_id="x" * (256 if fate == "unencodable" else 1)))
                )
            except UnsendableError as error:
                sent.append(type(error))
        await breathe()
        await Broker(channel, connection, [fate for fate in fates if fate != "unencodable"]).confirm(plan)
        assert (channel._pending, channel._returnable) == ({}, {})
        return [one if isinstance(one, type) else await _outcome(one) for one in sent]

    assert asyncio.run(play()) == [TAKEN[fate] for fate in fates]


@pytest.mark.parametrize(
    "message",
    [
        _message("q" * 256),
        _message(correlation_id="\ud800"),
        _message(content_type="ä" * 200),
        _message(headers={"a": object()}),
        _message(headers={"a": 2**70}),
        _message(reply_to=7),
    ],
    ids=["queue", "surrogate", "long text", "object", "long number", "number for text"],
)
async def test_a_message_that_cannot_be_encoded_takes_no_delivery_tag(message: Message) -> None:
    channel, connection = _open()
    with pytest.raises(UnsendableError, match="cannot be encoded"):
        channel.send(message)
    confirmed = channel.send(_message())
    await breathe()
    assert len(connection.frames()) == 3
    await _confirm(channel, 1)
    assert await _outcome(confirmed) is None


@pytest.mark.parametrize("more", [0, 1, 5000])
async def test_properties_that_no_frame_holds_are_not_sent_and_told_by_how_much(more: int) -> None:
    channel, connection = _open()
    connection.max_frame = 4096
    # Sizes and flags, the id that each message gets, a table with one header.
    others = 14 + 37 + 4 + len("\x01aS") + 4
    message = _message(headers={"a": "x" * (4096 - frames.OVERHEAD - others + more)})
    if more:
        with pytest.raises(TooLongError) as refused:
            channel.send(message)
        assert refused.value.excess == more
    else:
        channel.send(message)
        await breathe()
        assert len(connection.frames()) == 3


async def test_every_publish_has_a_message_id_of_its_own() -> None:
    """Also the same message sent again: a return is told by nothing else."""
    channel, connection = _open()
    message = _message()
    first, second = channel.send(message), channel.send(message)
    await breathe()
    headers = [frame for frame in connection.frames() if isinstance(frame, ContentHeader)]
    assert len({UUID(str(header.properties.message_id)) for header in headers}) == 2
    await _return(channel, headers[0])
    await _confirm(channel, 2, multiple=True)
    assert [await _outcome(first), await _outcome(second)] == [UnroutableError, None]


async def test_messages_ready_at_the_same_time_share_one_write() -> None:
    channel, connection = _open()
    sent = [channel.send(_message(body=bytes([number]))) for number in range(5)]
    assert connection.written == []
    await breathe()
    assert len(connection.written) == 1
    bodies = [frame.value for frame in connection.frames()[2::3]]
    assert bodies == [bytes([number]) for number in range(5)]
    await _confirm(channel, 5, multiple=True)
    assert [await _outcome(one) for one in sent] == [None] * 5


async def test_large_body_is_cut_into_frames_and_empty_body_has_none() -> None:
    channel, connection = _open()
    body = bytes(300_000)
    channel.send(_message(body=body))
    channel.send(_message(body=b""))
    await breathe()
    frames = connection.frames()
    assert b"".join(frame.value for frame in frames[2:-2]) == body
    assert len(frames) == 2 + 3 + 2
    assert frames[-1].body_size == 0


async def test_socket_that_is_full_is_not_filled_further() -> None:
    channel, connection = _open()
    connection.unsent = confirms.UNSENT_BYTES + 1
    channel.send(_message())
    await breathe()
    assert connection.written == []
    connection.unsent = 0
    async with asyncio.timeout(5):
        while not connection.written:
            await asyncio.sleep(0.005)


async def test_return_of_an_unknown_message_is_ignored() -> None:
    channel, _ = _open()
    confirmed = channel.send(_message())
    await _return(channel, ContentHeader(properties=spec.Basic.Properties(message_id="other")))
    await _return(channel, ContentHeader())
    await _confirm(channel, 1)
    assert await _outcome(confirmed) is None


async def test_confirm_of_an_unknown_tag_is_ignored() -> None:
    channel, _ = _open()
    confirmed = channel.send(_message())
    await _confirm(channel, 9)
    await _confirm(channel, 0, multiple=True)
    assert not confirmed.done()
    await _confirm(channel, 9, multiple=True)
    assert await _outcome(confirmed) is None


async def test_missing_confirm_is_given_up_in_time_and_a_late_one_does_no_harm() -> None:
    channel, connection = _open()
    early = channel.send(_message())
    channel.age_unconfirmed(confirms.CONFIRM_SECONDS)
    late = channel.send(_message())
    connection.heard += 1
    channel.age_unconfirmed(0.1)
    assert await _outcome(early) is UnconfirmedError
    await _confirm(channel, 2, multiple=True)
    assert await _outcome(late) is None
    assert channel._pending == {}


async def test_broker_that_falls_silent_loses_its_connection_and_no_message_is_given_up() -> None:
    """Not before it has been silent for longer than a broker that lives."""
    channel, connection = _open()
    connection.heard, connection.longest_silence = 7, 30.0
    first = channel.send(_message())
    channel.age_unconfirmed(30.0)
    second = channel.send(_message())
    await breathe()
    assert not any(future.done() for future in (first, second, connection.lost))
    channel.age_unconfirmed(0.1)
    for confirmed in (first, second):
        with pytest.raises(ChannelLostError, match="sent nothing for 30") as lost:
            await asyncio.wait_for(confirmed, 5)
        assert not lost.value.over_a_message
    assert "sent nothing" in connection.lost.result()
    assert not channel.usable


async def test_message_waits_for_a_silent_broker_until_that_sends_anything_again() -> None:
    """A heartbeat is enough: the broker lives, and did not confirm."""
    channel, connection = _open()
    connection.longest_silence = 30.0
    confirmed = channel.send(_message())
    channel.age_unconfirmed(29.0)
    await breathe()
    assert not confirmed.done()
    connection.heard += 1
    channel.age_unconfirmed(2.0)
    assert await _outcome(confirmed) is UnconfirmedError
    assert not connection.lost.done()


async def test_broker_that_heartbeats_but_does_not_confirm_keeps_its_connection() -> None:
    channel, connection = _open()
    sent = []
    for _ in range(60):
        sent.append(channel.send(_message()))
        connection.heard += 1
        channel.age_unconfirmed(1.0)
    wait = int(confirms.CONFIRM_SECONDS)
    assert [await _outcome(one) for one in sent[:-wait]] == [UnconfirmedError] * (60 - wait)
    assert not connection.lost.done()


async def test_silence_says_nothing_where_heartbeats_are_switched_off() -> None:
    channel, connection = _open()
    connection.longest_silence = None
    confirmed = channel.send(_message())
    channel.age_unconfirmed(confirms.CONFIRM_SECONDS + 0.1)
    assert await _outcome(confirmed) is UnconfirmedError
    assert not connection.lost.done()


async def test_silence_in_which_nothing_waits_for_a_confirm_is_not_judged() -> None:
    channel, connection = _open()
    confirmed = channel.send(_message())
    await breathe()
    await _confirm(channel, 1)
    channel.age_unconfirmed(3600.0)
    assert await _outcome(confirmed) is None
    assert not connection.lost.done()


async def test_sender_that_was_cancelled_does_not_disturb_the_others() -> None:
    channel, _ = _open()
    given_up, other = channel.send(_message()), channel.send(_message())
    given_up.cancel()
    await _confirm(channel, 2, multiple=True)
    assert await _outcome(other) is None


async def test_channel_that_is_gone_fails_what_is_in_flight_and_takes_nothing_more() -> None:
    channel, connection = _open()
    confirmed = channel.send(_message())
    connection.lose("reset")
    await breathe()
    with pytest.raises(ChannelLostError) as lost:
        await confirmed
    assert not lost.value.over_a_message
    assert not channel.usable
    with pytest.raises(ChannelLostError):
        channel.send(_message())


async def test_a_channel_that_the_broker_closes_is_lost_over_a_message() -> None:
    channel, _ = _open()
    confirmed = channel.send(_message())
    with pytest.raises(Exception, match="ACCESS_REFUSED"):
        await channel._on_close_frame(spec.Channel.Close(403, "ACCESS_REFUSED", 60, 40))
    with pytest.raises(ChannelLostError, match="403 ACCESS_REFUSED") as lost:
        await confirmed
    assert lost.value.over_a_message


@pytest.mark.parametrize(
    ("error", "over_a_message"),
    [
        (ConnectionFrameError("501 FRAME_ERROR"), True),
        (ConnectionClosed(320, "CONNECTION_FORCED"), False),
        (ConnectionResetError(), False),
        (None, False),
    ],
)
async def test_a_connection_is_lost_over_a_message_only_if_the_broker_names_an_error(
    error: Exception | None, over_a_message: bool
) -> None:
    channel, _ = _open()
    confirmed = channel.send(_message())
    closing: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    closing.set_exception(error) if error else closing.cancel()
    channel._on_gone(closing)
    with pytest.raises(ChannelLostError) as lost:
        await confirmed
    assert lost.value.over_a_message is over_a_message


# ------------------------------------------------------------------------------------- the publisher


class Setup:
    """A publisher with its link and the connections it opened besides."""

    def __init__(self) -> None:
        self.link = FakeConnection()
        self.opened: dict[str, list[FakeConnection]] = {}
        self.cannot_open: Exception | None = None
        self.tries = 0
        self.publisher = Publisher(as_connection(self.link), self._open)

    async def _open(self, purpose: str) -> Any:
        self.tries += 1
        if self.cannot_open is not None:
            raise self.cannot_open
        connection = FakeConnection()
        self.opened.setdefault(purpose, []).append(connection)
        return connection

    def publish(self, *messages: Message) -> list[asyncio.Task[None]]:
        return [asyncio.ensure_future(self.publisher.publish(message)) for message in messages]


def _channel_of(connection: FakeConnection, number: int = -1) -> ConfirmChannel:
    channel = connection.channels[number]
    assert isinstance(channel, ConfirmChannel)
    return channel


async def test_publish_returns_when_confirmed_and_not_before() -> None:
    setup = Setup()
    (task,) = setup.publish(_message())
    await breathe()
    assert not task.done()
    await _confirm(_channel_of(setup.link), 1)
    await asyncio.wait_for(task, 5)
    assert (len(setup.link.channels), setup.opened) == (1, {})


async def test_no_message_is_given_up_for_want_of_a_permission() -> None:
    """The link is given up in its place, also when it was a direct reply that was refused."""
    text = "403 ACCESS_REFUSED - access to exchange 'amq.default' in vhost '/' refused for user 'ada'"
    setup = Setup()
    queued, direct = setup.publish(_message(), _message(DIRECT, mandatory=False))
    await breathe()
    _channel_of(setup.opened["direct replies"][0])._lose(ChannelLostError(text, over_a_message=True))
    await breathe()
    _channel_of(setup.link)._lose(ChannelLostError("closed", over_a_message=False))
    for task in (direct, queued):
        with pytest.raises(LinkLostError, match="no write permission on exchange"):
            await asyncio.wait_for(task, 5)
    assert "suspects" not in setup.opened
    assert "user ada" in setup.link.lost.result()


async def test_direct_replies_have_a_connection_of_their_own() -> None:
    """A malformed address makes the broker close it: losing it is not losing the link."""
    setup = Setup()
    (direct,) = setup.publish(_message(DIRECT, mandatory=False))
    await breathe()
    assert setup.link.channels == []
    (connection,) = setup.opened["direct replies"]
    connection.lose("541 INTERNAL_ERROR")
    _channel_of(connection)._lose(ChannelLostError("541", over_a_message=True))
    await breathe()
    (alone,) = setup.opened["suspects"]
    _channel_of(alone)._lose(ChannelLostError("541", over_a_message=True))
    with pytest.raises(UnsendableError, match="541"):
        await asyncio.wait_for(direct, 5)
    assert not setup.link.lost.done()


async def test_only_the_message_that_closes_the_channel_again_is_unsendable() -> None:
    """Those that were in flight with it are sent once more, one at a time, and arrive."""
    setup = Setup()
    tasks = setup.publish(*(_message(queue) for queue in ("good", "evil", "fine")))
    await breathe()
    _channel_of(setup.link)._lose(ChannelLostError("403", over_a_message=True))
    sent_alone = 0
    async with asyncio.timeout(5):
        while not all(task.done() for task in tasks):
            await breathe()
            for connection in setup.opened.get("suspects", []):
                for channel in connection.channels:
                    assert isinstance(channel, ConfirmChannel)
                    assert len(channel._pending) <= 1
                    for tag in list(channel._pending):
                        sent_alone += 1
                        sent = connection.frames()
                        queues = [one.routing_key for one in sent if isinstance(one, spec.Basic.Publish)]
                        if queues[-1] == "evil":
                            channel._lose(ChannelLostError("403 again", over_a_message=True))
                        else:
                            await _confirm(channel, tag)
    assert sent_alone == 3
    assert [await _outcome(task) for task in tasks] == [None, UnsendableError, None]
    again = setup.publish(_message())
    await breathe()
    await _confirm(_channel_of(setup.link, 1), 1)
    await asyncio.gather(*again)


async def test_publishing_on_a_lost_link_says_that_it_is_lost() -> None:
    setup = Setup()
    (task,) = setup.publish(_message())
    await breathe()
    setup.link.lose("reset by peer")
    _channel_of(setup.link)._lose(ChannelLostError("gone", over_a_message=False))
    with pytest.raises(LinkLostError, match="reset by peer"):
        await asyncio.wait_for(task, 5)
    with pytest.raises(LinkLostError):
        await setup.publisher.publish(_message())


async def test_silent_link_is_lost_and_the_message_is_left_to_the_next_one() -> None:
    setup = Setup()
    (task,) = setup.publish(_message())
    await breathe()
    _channel_of(setup.link).age_unconfirmed(15.1)
    with pytest.raises(LinkLostError, match="sent nothing for 15"):
        await asyncio.wait_for(task, 5)
    assert "suspects" not in setup.opened


async def test_silent_connection_for_direct_replies_is_lost_alone_and_the_message_sent_on_another() -> None:
    setup = Setup()
    (task,) = setup.publish(_message(DIRECT, mandatory=False))
    await breathe()
    (silent,) = setup.opened["direct replies"]
    _channel_of(silent).age_unconfirmed(15.1)
    await breathe()
    (alone,) = setup.opened["suspects"]
    await _confirm(_channel_of(alone), 1)
    await asyncio.wait_for(task, 5)
    (later,) = setup.publish(_message(DIRECT, mandatory=False))
    await breathe()
    _, fresh = setup.opened["direct replies"]
    await _confirm(_channel_of(fresh), 1)
    await asyncio.wait_for(later, 5)
    assert (silent.closed, setup.link.lost.done()) == (True, False)


async def test_silent_connection_for_suspects_is_lost_alone_and_the_message_may_be_tried_again() -> None:
    setup = Setup()
    (task,) = setup.publish(_message())
    await breathe()
    _channel_of(setup.link)._lose(ChannelLostError("403", over_a_message=True))
    await breathe()
    _channel_of(setup.opened["suspects"][0]).age_unconfirmed(15.1)
    with pytest.raises(UnconfirmedError, match="sent nothing"):
        await asyncio.wait_for(task, 5)
    assert not setup.link.lost.done()


async def test_channel_lost_through_nobodys_fault_leaves_the_message_unconfirmed() -> None:
    setup = Setup()
    (task,) = setup.publish(_message())
    await breathe()
    _channel_of(setup.link)._lose(ChannelLostError("gone", over_a_message=False))
    await breathe()
    _channel_of(setup.opened["suspects"][0])._lose(ChannelLostError("gone", over_a_message=False))
    with pytest.raises(UnconfirmedError):
        await asyncio.wait_for(task, 5)


async def test_channel_that_cannot_be_had_while_the_link_lives_leaves_the_message_unconfirmed() -> None:
    """``LinkLostError`` would leave the delivery to a broker that still waits for its acknowledgement."""
    setup = Setup()
    setup.link.refuses_channels = LinkLostError("too many channels")
    with pytest.raises(UnconfirmedError, match="too many channels"):
        await setup.publisher.publish(_message())


async def test_a_separate_connection_is_opened_once_for_all_messages_that_wait_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And for a good while: what waits for it goes out as soon as it is there."""
    setup = Setup()
    setup.cannot_open = ConnectError("too many connections", permanent=False)
    monkeypatch.setattr(backoff, "LONGEST_PAUSE", 0.001)
    tasks = setup.publish(*(_message(DIRECT, mandatory=False) for _ in range(50)))
    async with asyncio.timeout(5):
        while setup.tries < 5:
            await asyncio.sleep(0)
        assert setup.publisher.trouble == "too many connections"
        assert not any(task.done() for task in tasks)
        setup.cannot_open = None
        while "direct replies" not in setup.opened:
            await asyncio.sleep(0)
        await breathe()
        (connection,) = setup.opened["direct replies"]
        await _confirm(_channel_of(connection), 50, multiple=True)
        await asyncio.gather(*tasks)
    assert setup.publisher.trouble == ""


@pytest.mark.parametrize("way", ["direct", "suspects"])
async def test_a_message_that_waits_too_long_for_a_separate_connection_is_given_up(
    way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The link lives, and its delivery must be settled."""
    monkeypatch.setattr(publisher, "OPEN_SECONDS", 0.05)
    monkeypatch.setattr(backoff, "LONGEST_PAUSE", 0.001)
    setup = Setup()
    setup.cannot_open = ConnectError("too many connections", permanent=False)
    (task,) = setup.publish(_message(DIRECT if way == "direct" else "q", mandatory=False))
    await breathe()
    if way == "suspects":
        _channel_of(setup.link)._lose(ChannelLostError("403", over_a_message=True))
    with pytest.raises(NotConnectedError, match="too many connections"):
        await asyncio.wait_for(task, 5)
    assert (setup.tries > 1, setup.publisher.trouble) == (True, ""), "nobody waits for it any more"


async def test_messages_do_not_age_while_the_broker_has_an_alarm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publisher, "SWEEP_SECONDS", 0.001)
    monkeypatch.setattr(confirms, "CONFIRM_SECONDS", 0.01)
    setup = Setup()
    setup.link.blocked = True
    setup.link.longest_silence = 0.02
    sweeper = asyncio.ensure_future(setup.publisher.run())
    (waiting,) = setup.publish(_message())
    (direct,) = setup.publish(_message(DIRECT))
    await breathe()
    setup.opened["direct replies"][0].heard += 1
    with pytest.raises(UnconfirmedError):
        await asyncio.wait_for(direct, 5)
    await asyncio.sleep(0.05)
    assert not waiting.done(), "its connection is blocked, the other one is not"
    assert not setup.link.lost.done(), "an alarm may last: blocked is not lost"
    setup.link.blocked = False
    setup.link.heard += 1
    with pytest.raises(UnconfirmedError):
        await asyncio.wait_for(waiting, 5)
    sweeper.cancel()


async def test_closing_closes_the_connections_opened_besides_the_link() -> None:
    setup = Setup()
    (task,) = setup.publish(_message(DIRECT))
    await breathe()
    await setup.publisher.close()
    task.cancel()
    await asyncio.wait({task})
    assert setup.opened["direct replies"][0].closed
    assert not setup.link.closed


async def test_connection_that_opens_after_the_publisher_was_closed_is_closed_too() -> None:
    """A link that is torn down meanwhile leaves no connection behind."""
    setup = Setup()
    opening = asyncio.Event()

    async def open_late(purpose: str) -> Any:
        await opening.wait()
        return await Setup._open(setup, purpose)

    late = Publisher(as_connection(setup.link), open_late)
    task = asyncio.ensure_future(late.publish(_message(DIRECT)))
    await breathe()
    await late.close()
    opening.set()
    await breathe()
    assert setup.opened["direct replies"][0].closed
    task.cancel()
    await asyncio.wait({task})
