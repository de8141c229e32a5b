"""The client on a bad day: lost, silent and refused connections between it and a real broker."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Literal, Self

import aio_pika
import pytest
from yarl import URL

from client import ClientClosed, ConnectionFailed, RequestTimedOut, SessionClient
from tests.support.responder import responding

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.responder import Responder

USER = "ada@example.com"

both_modes = pytest.mark.parametrize("reply", ["queue", "direct"])
Mode = Literal["queue", "direct"]


class Proxy:
    """A wire between client and broker that can be cut, go silent, or refuse connections."""

    def __init__(self, url: str) -> None:
        self._target = URL(url)
        self._wires: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._flows = asyncio.Event()
        self._flows.set()
        self._refuses = False
        self.refused = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for wire in self._wires:
            wire.cancel()
        await asyncio.gather(*self._wires, return_exceptions=True)

    @property
    def url(self) -> str:
        return str(self._target.with_port(self._server.sockets[0].getsockname()[1]))

    def cut(self, *, refuse: bool = False) -> None:
        """Reset every connection; with ``refuse``, every new one too until ``mend()``."""
        self._refuses = refuse
        for writer in self._writers:
            writer.transport.abort()

    def silence(self) -> None:
        """Carry nothing more on the connections there are; new ones work."""
        self._flows.clear()
        self._flows = asyncio.Event()
        self._flows.set()

    def mend(self) -> None:
        self._refuses = False

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._refuses:
            writer.transport.abort()
            self.refused.set()
            return
        wire = asyncio.current_task()
        assert wire is not None
        self._wires.add(wire)
        far_reader, far_writer = await asyncio.open_connection(self._target.host, self._target.port)
        ends = {writer, far_writer}
        self._writers |= ends
        try:
            await asyncio.gather(
                _pump(reader, far_writer, self._flows), _pump(far_reader, writer, self._flows)
            )
        except asyncio.CancelledError:
            pass  # start_server() logs a cancelled handler as an error
        finally:
            self._writers -= ends
            self._wires.discard(wire)
            for end in ends:
                end.transport.abort()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, flows: asyncio.Event) -> None:
    with suppress(OSError):
        while data := await reader.read(65536):
            await flows.wait()
            writer.write(data)
            await writer.drain()
    writer.transport.abort()


@pytest.fixture
async def responder(amqp_url: str) -> AsyncIterator[Responder]:
    async with responding(amqp_url) as responder:
        yield responder


@pytest.fixture
async def proxy(amqp_url: str) -> AsyncIterator[Proxy]:
    async with Proxy(amqp_url) as proxy:
        yield proxy


@both_modes
async def test_a_call_is_sent_again_with_the_same_id_after_the_connection_is_lost(
    responder: Responder, proxy: Proxy, reply: Mode
) -> None:
    """The first request stays without reply; the second bears the same id and is answered."""
    responder.ignore = 1
    async with SessionClient(proxy.url, reply=reply) as client:
        call = asyncio.create_task(client.create_session(user_id=USER))
        await responder.received(1)
        proxy.cut()
        response = await call
    sent = {str(message.headers["x-request-id"]) for message in responder.requests}
    assert sent == {str(response.request_id)}
    assert len(responder.requests) == 2


async def test_a_reply_sent_while_the_client_was_away_reaches_it(responder: Responder, proxy: Proxy) -> None:
    """The reply queue outlives the connection: no second request is ever answered here."""
    responder.may_reply.clear()
    async with SessionClient(proxy.url) as client:
        call = asyncio.create_task(client.create_session(user_id=USER))
        await responder.received(1)
        proxy.cut(refuse=True)
        await proxy.refused.wait()
        await responder.reply(responder.requests[0])
        proxy.mend()
        response = await call
    assert str(response.request_id) == responder.requests[0].headers["x-request-id"]


@both_modes
async def test_500_calls_over_a_connection_that_is_cut_again_and_again_all_end_well(
    responder: Responder, proxy: Proxy, reply: Mode
) -> None:
    """Whatever is lost with a connection, requests or replies, is asked for again."""
    async with SessionClient(proxy.url, reply=reply) as client:
        calls = [asyncio.create_task(client.create_session(user_id=USER)) for _ in range(500)]
        for seen in (50, 250, 450):
            await responder.received(seen)
            proxy.cut()
        responses = await asyncio.gather(*calls)
    assert len({response.request_id for response in responses}) == 500


async def test_a_silent_connection_is_given_up_long_before_the_heartbeat_says_so(
    responder: Responder, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A peer that vanished without a word: the unanswered publish tells. With heartbeats it takes 33 s.

    The broker still holds the old consumer for alive; replies must all go to the new one."""
    monkeypatch.setattr("client.call.FIRST_TRY_SECONDS", 0.3)
    monkeypatch.setattr("client.link.SILENCE_SECONDS", 0.3)
    async with SessionClient(proxy.url) as client:
        await client.create_session(user_id=USER)
        proxy.silence()
        async with asyncio.timeout(15):
            await client.create_session(user_id=USER)
            await asyncio.gather(*(client.create_session(user_id=USER) for _ in range(20)))
    assert len(responder.requests) == 22


async def test_a_deleted_reply_queue_is_declared_again(
    amqp_url: str, responder: Responder, proxy: Proxy
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
    responder: Responder, proxy: Proxy
) -> None:
    """The deadline is absolute, and the error says what the trouble was."""
    clock = asyncio.get_running_loop().time
    async with SessionClient(proxy.url) as client:
        proxy.cut(refuse=True)
        await proxy.refused.wait()
        started = clock()
        with pytest.raises(RequestTimedOut, match="cannot use the broker"):
            await client.create_session(user_id=USER, timeout=1)
        assert 1 <= clock() - started < 1.5
    assert responder.requests == []


async def test_a_client_closes_in_bounded_time_though_its_peer_is_silent(
    responder: Responder, proxy: Proxy
) -> None:
    """No answer to the goodbye, and megabytes unsent: the socket is cut, no task stays."""
    clock = asyncio.get_running_loop().time
    before = asyncio.all_tasks()
    client = SessionClient(proxy.url)
    await client.open()
    proxy.silence()
    metadata = {f"{number}": "x" * 16_000 for number in range(900)}
    calls = [asyncio.create_task(client.create_session(user_id=USER, metadata=metadata)) for _ in range(3)]
    await asyncio.wait(calls, timeout=0.5)
    started = clock()
    await client.close()
    assert clock() - started < 5
    for call in calls:
        with pytest.raises(ClientClosed):
            await call
    async with asyncio.timeout(5):
        while mine := {task for task in asyncio.all_tasks() - before if not _belongs_to_proxy(task)}:
            await asyncio.wait(mine)


def _belongs_to_proxy(task: asyncio.Task[object]) -> bool:
    return getattr(task.get_coro(), "__qualname__", "") in {"Proxy._accept", "_pump"}


async def test_a_client_does_not_wait_for_ever_for_a_broker_that_says_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Something accepts the connection and is silent: starting fails in bounded time, with a sentence."""
    monkeypatch.setattr("client.link.OPEN_SECONDS", 0.2)
    gone = asyncio.Event()

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(100):
            pass
        writer.transport.abort()
        gone.set()

    async with await asyncio.start_server(say_nothing, "127.0.0.1", 0) as server, asyncio.timeout(6):
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(ConnectionFailed, match="no answer within"):
            await SessionClient(f"amqp://guest:guest@127.0.0.1:{port}/").open()
        await gone.wait()
