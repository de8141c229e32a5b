"""Names with several addresses, and lists of brokers, of which some do not answer."""

from __future__ import annotations

import asyncio
import socket
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

import pytest
import uvloop

from session_client import SessionClient
from session_worker.ledger.postgresql.connection import connect, hang_up
from session_worker.loop import PlainLoop, new_event_loop
from tests.support import addresses
from tests.support.lab import code_of, send
from tests.support.responder import responding
from tests.support.tcp_proxy import TcpProxy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from tests.support.lab import Lab

    Trouble = Callable[[int], AbstractContextManager[None]]

USER = "ada@example.com"
each_trouble = pytest.mark.parametrize("trouble", [addresses.dropping, addresses.silent])


@pytest.fixture
def named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", socket.getaddrinfo)  # put back at the end
    addresses.name_them()


def _by(host: str, proxy: TcpProxy) -> str:
    return proxy.url.replace("127.0.0.1", host)


@contextmanager
def _worker(lab: Lab, amqp_url: str) -> Iterator[None]:
    worker = lab.worker(
        wait=False, amqp_url=amqp_url, handler="tests.support.handlers.naming:scripted", holder_timeout=20
    )
    with closing(worker):
        worker.wait_up(60)
        yield


@each_trouble
async def test_a_worker_reaches_a_broker_of_whose_addresses_the_first_is_dead(
    lab: Lab, trouble: Trouble
) -> None:
    """It hears nothing from that one: neither when it connects nor, half dead, when it logs in."""

    def serve(url: str) -> None:
        with _worker(lab, url):
            send(lab, 1)
            assert code_of(lab.take("session.replies")[0]) is None

    async with TcpProxy(lab.url) as proxy:
        with trouble(proxy.port):
            await asyncio.to_thread(serve, _by(addresses.NAME, proxy))


async def test_a_worker_reaches_whichever_broker_of_a_list_lives(lab: Lab) -> None:
    def serve(urls: str) -> None:
        with _worker(lab, urls):
            send(lab, 1)
            assert code_of(lab.take("session.replies")[0]) is None

    async with TcpProxy(lab.url) as proxy:
        with addresses.dropping(proxy.port):
            dead = _by(addresses.DROPPING, proxy)
            await asyncio.to_thread(serve, f"{dead},{proxy.url},{dead}x")


@each_trouble
@pytest.mark.usefixtures("named")
async def test_a_client_reaches_a_broker_of_whose_addresses_the_first_is_dead(
    amqp_url: str, proxy: TcpProxy, trouble: Trouble
) -> None:
    async with responding(amqp_url):
        with trouble(proxy.port):
            for url in (
                _by(addresses.NAME, proxy),
                f"{_by(addresses.DROPPING, proxy)},{proxy.url}",
            ):
                async with asyncio.timeout(20), SessionClient(url) as client:
                    assert (await client.create_session(user_id=USER)).status == "completed"


@pytest.mark.usefixtures("named")
@pytest.mark.parametrize("loop", [new_event_loop, PlainLoop])
def test_a_database_is_reached_of_whose_addresses_the_first_is_dead(
    loop: Callable[[], asyncio.AbstractEventLoop], postgresql_url: str
) -> None:
    async def ask() -> None:
        async with TcpProxy(postgresql_url) as proxy:
            with addresses.dropping(proxy.port):
                connection = await connect(_by(addresses.NAME, proxy))
                assert await connection.fetchval("SELECT 1") == 1
                await hang_up(connection)

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(ask())


def test_the_worker_runs_on_the_fastest_loop_there_is() -> None:
    with closing(new_event_loop()) as loop:
        assert isinstance(loop, uvloop.Loop)
