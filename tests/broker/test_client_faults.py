"""The client on a bad day: lost, silent and refused connections between it and a real broker."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Literal

import aio_pika
import pytest

from session_client import ClientClosed, ConnectionFailed, RequestNotRouted, RequestTimedOut, SessionClient
from tests.support.responder import responding
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.responder import Responder
    from tests.support.servers import RabbitMQ
    from tests.support.tcp_proxy import TcpProxy

USER = "ada@example.com"

both_modes = pytest.mark.parametrize("reply", ["queue", "direct"])
Mode = Literal["queue", "direct"]


@pytest.fixture
async def responder(amqp_url: str) -> AsyncIterator[Responder]:
    async with responding(amqp_url) as responder:
        yield responder


async def take_away(proxy: TcpProxy) -> None:
    """Break the client's connection and refuse new ones."""
    await proxy.refuse()
    proxy.reset()
    await eventually(lambda: proxy.connections == 0)


@both_modes
async def test_a_call_is_sent_again_with_the_same_id_after_the_connection_is_lost(
    responder: Responder, proxy: TcpProxy, reply: Mode
) -> None:
    """The first request stays without reply; the second bears the same id and is answered."""
    responder.ignore = 1
    async with SessionClient(proxy.url, reply=reply) as client:
        call = asyncio.create_task(client.create_session(user_id=USER))
        await responder.received(1)
        proxy.reset()
        async with asyncio.timeout(4):  # sooner than the try would have timed out
            response = await call
    sent = {str(message.headers["x-request-id"]) for message in responder.requests}
    assert sent == {str(response.request_id)}
    assert len(responder.requests) == 2


async def test_a_reply_sent_while_the_client_was_away_reaches_it(
    responder: Responder, proxy: TcpProxy
) -> None:
    """The reply queue outlives the connection: no second request is ever answered here."""
    responder.may_reply.clear()
    async with SessionClient(proxy.url) as client:
        call = asyncio.create_task(client.create_session(user_id=USER))
        await responder.received(1)
        await take_away(proxy)
        await responder.reply(responder.requests[0])
        await proxy.accept()
        response = await call
    assert str(response.request_id) == responder.requests[0].headers["x-request-id"]


async def test_a_client_may_be_opened_before_its_broker_can_be_reached(
    responder: Responder, proxy: TcpProxy, caplog: pytest.LogCaptureFixture
) -> None:
    """A call waits for it within its own time, says what it waited for, and is sent once the broker is there.
    The log says once why there is no connection."""
    await proxy.refuse()
    client = SessionClient(proxy.url)
    await client.open(wait=False)
    try:
        with pytest.raises(RequestTimedOut, match=r"the broker at .* cannot be reached"):
            await client.create_session(user_id=USER, timeout=1)
        call = asyncio.create_task(client.create_session(user_id=USER))
        await proxy.accept()
        assert (await call).payload.session_id
    finally:
        await client.close()
    assert len(responder.requests) == 1
    assert [
        record.getMessage().partition(" 127")[0]
        for record in caplog.records
        if record.name == "session_client.link_keeper"
    ] == ["the broker at"]


async def test_a_client_that_waits_for_its_broker_can_be_closed(proxy: TcpProxy) -> None:
    await proxy.refuse()
    client = SessionClient(proxy.url)
    await client.open(wait=False)
    call = asyncio.create_task(client.create_session(user_id=USER))
    await asyncio.sleep(0)
    async with asyncio.timeout(5):
        await client.close()
        with pytest.raises(ClientClosed):
            await call


@both_modes
async def test_500_calls_over_a_connection_that_is_cut_again_and_again_all_end_well(
    responder: Responder, proxy: TcpProxy, reply: Mode
) -> None:
    """Whatever is lost with a connection, requests or replies, is asked for again."""
    async with SessionClient(proxy.url, reply=reply) as client:
        calls = [asyncio.create_task(client.create_session(user_id=USER)) for _ in range(500)]
        for seen in (50, 250, 450):
            await responder.received(seen)
            proxy.reset()
        responses = await asyncio.gather(*calls)
    assert len({response.request_id for response in responses}) == 500


async def test_a_silent_connection_is_given_up_long_before_the_heartbeat_says_so(
    amqp_url: str, responder: Responder, proxy: TcpProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A peer that vanished without a word: the unanswered publish tells. With heartbeats it takes 33 s.

    The broker still takes the old consumer for alive; replies must all go to the new one.
    """
    monkeypatch.setattr("session_client.call.FIRST_REPLY_WAIT_SECONDS", 0.3)
    monkeypatch.setattr("session_client.link.SILENCE_SECONDS", 0.3)
    async with SessionClient(f"{proxy.url},{amqp_url}") as client:
        await client.create_session(user_id=USER)
        proxy.mode = "stall"
        await proxy.refuse()
        async with asyncio.timeout(15):
            await asyncio.gather(*(client.create_session(user_id=USER) for _ in range(20)))
    assert len(responder.requests) == 21


async def test_a_call_given_up_in_a_pause_of_the_network_costs_nobody_the_link(
    responder: Responder, proxy: TcpProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broker's confirm came, only later: the next call that is given up must not find an old silence."""
    monkeypatch.setattr("session_client.link.SILENCE_SECONDS", 1.0)
    responder.may_reply.clear()
    async with SessionClient(proxy.url) as client:
        link = await client._calls._keeper.link(1)
        assert link is not None
        for _ in range(2):
            proxy.mode = "stall-down"
            heard = link._transport.reader.heard
            with pytest.raises(RequestTimedOut):
                await client.create_session(user_id=USER, timeout=0.2)
            assert not link.lost.done()
            proxy.mode = "pass"
            await eventually(lambda before=heard: link._transport.reader.heard > before)  # type: ignore[misc]
            await asyncio.wait({link.lost}, timeout=2.5)
            assert not link.lost.done()
        responder.may_reply.set()
        await client.create_session(user_id=USER)
        assert client._calls._keeper.links_tried == 1


async def test_a_request_over_the_brokers_limit_ends_its_own_call_alone(own_rabbitmq: RabbitMQ) -> None:
    """The broker closes the channel over it, each time: it is sent once, and the others are answered."""
    # A broker of 3.10 looks at the one, newer ones at the other.
    own_rabbitmq.eval("application:set_env(rabbit, max_message_size, 2000)")
    own_rabbitmq.eval("persistent_term:put(max_message_size, 2000)")
    async with responding(own_rabbitmq.url) as responder, SessionClient(own_rabbitmq.url) as client:
        metadata = {"text": "x" * 3000}
        large, *small = await asyncio.gather(
            client.create_session(user_id=USER, metadata=metadata),
            *(client.create_session(user_id=USER) for _ in range(20)),
            return_exceptions=True,
        )
        assert isinstance(large, RequestNotRouted)
        assert "max_message_size is 2000" in str(large)
        assert not [each for each in small if isinstance(each, BaseException)]
        await client.create_session(user_id=USER)
        assert client._calls._keeper.links_tried == 2
        assert len({message.headers["x-request-id"] for message in responder.requests}) == 21


async def test_a_deleted_reply_queue_is_declared_again(
    amqp_url: str, responder: Responder, proxy: TcpProxy
) -> None:
    """An expired queue, or an operator's mistake, costs one more try and no call."""
    responder.ignore = 1
    async with SessionClient(proxy.url) as client, await aio_pika.connect(amqp_url) as connection:
        call = asyncio.create_task(client.create_session(user_id=USER))
        await responder.received(1)
        channel = await connection.channel()
        await channel.queue_delete(responder.requests[0].reply_to or "")
        await call


async def test_a_call_ends_at_its_deadline_while_the_broker_is_away(
    responder: Responder, proxy: TcpProxy
) -> None:
    """The deadline is absolute, and the error says what the trouble was."""
    clock = asyncio.get_running_loop().time
    async with SessionClient(proxy.url) as client:
        await take_away(proxy)
        started = clock()
        with pytest.raises(RequestTimedOut, match=r"the broker at .* cannot be reached"):
            await client.create_session(user_id=USER, timeout=1)
        assert 1 <= clock() - started < 1.5
    assert responder.requests == []


async def test_a_client_closes_in_bounded_time_though_its_peer_is_silent(
    responder: Responder, proxy: TcpProxy
) -> None:
    """No answer to the goodbye, and megabytes unsent: the socket is cut."""
    clock = asyncio.get_running_loop().time
    client = SessionClient(proxy.url)
    await client.open()
    proxy.mode = "stall"
    metadata = {f"{number}": "x" * 16_000 for number in range(900)}
    calls = [asyncio.create_task(client.create_session(user_id=USER, metadata=metadata)) for _ in range(3)]
    await asyncio.wait(calls, timeout=0.5)
    started = clock()
    await client.close()
    assert clock() - started < 5
    for call in calls:
        with pytest.raises(ClientClosed):
            await call


async def test_a_client_closed_as_soon_as_it_is_open_does_not_stay_connected(proxy: TcpProxy) -> None:
    """Before its keeper has run a single step."""
    async with SessionClient(proxy.url):
        pass
    await eventually(lambda: proxy.connections == 0)


async def test_a_client_closed_while_it_connects_does_not_stay_connected(proxy: TcpProxy) -> None:
    """Else its connection and its task would go on with nobody to end them."""
    client = SessionClient(proxy.url)
    proxy.mode = "stall"
    opening = asyncio.create_task(client.open())
    await eventually(lambda: proxy.connections == 1)
    await client.close()
    proxy.mode = "pass"
    with pytest.raises(ClientClosed, match="while it connected"):
        await opening
    assert not client._calls._keeper.is_running
    await eventually(lambda: proxy.connections == 0)


async def test_a_client_closes_at_once_while_the_broker_is_away(
    responder: Responder, proxy: TcpProxy
) -> None:
    """Between two connections there is nothing to say goodbye to."""
    client = SessionClient(proxy.url)
    await client.open()
    await take_away(proxy)
    call = asyncio.create_task(client.create_session(user_id=USER))
    async with asyncio.timeout(5):
        await client.close()
        with pytest.raises(ClientClosed):
            await call
    assert responder.requests == []


async def test_a_client_does_not_wait_for_ever_for_a_broker_that_says_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Something accepts the connection and is silent: starting fails in bounded time, with a sentence."""
    monkeypatch.setattr("session_client.link_keeper.OPEN_SECONDS", 0.2)
    gone = asyncio.Event()

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(100):
            pass
        writer.transport.abort()
        gone.set()

    async with await asyncio.start_server(say_nothing, "127.0.0.1", 0) as server, asyncio.timeout(6):
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(ConnectionFailed, match="did not answer within"):
            await SessionClient(f"amqp://guest:guest@127.0.0.1:{port}/").open()
        await gone.wait()


async def test_a_blocking_broker_makes_calls_wait_and_no_link_is_given_up(
    own_rabbitmq: RabbitMQ, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A memory alarm: the deadline holds and names the trouble; who has time is answered afterwards."""
    monkeypatch.setattr("session_client.call.FIRST_REPLY_WAIT_SECONDS", 0.3)
    monkeypatch.setattr("session_client.link.SILENCE_SECONDS", 1.0)
    async with responding(own_rabbitmq.url), SessionClient(own_rabbitmq.url) as client:
        await client.create_session(user_id=USER)
        own_rabbitmq.set_alarm(True)
        try:
            calls = [asyncio.create_task(client.create_session(user_id=USER)) for _ in range(20)]
            with pytest.raises(RequestTimedOut, match="the broker blocks publishers"):
                await client.create_session(user_id=USER, timeout=2.5)
            assert not any(call.done() for call in calls)
        finally:
            own_rabbitmq.set_alarm(False)
        await asyncio.gather(*calls)
        assert client._calls._keeper.links_tried == 1
