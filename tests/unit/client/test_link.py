"""When a link counts as lost, how it is replaced, and what is said of a connection that was refused."""

from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING
from unittest.mock import AsyncMock, Mock

import pamqp.base
import pamqp.frame
import pytest
from pamqp import commands as spec
from yarl import URL

from session_client import ConnectionFailed, SessionClient
from session_client.link import Link
from session_client.link_keeper import LinkKeeper
from session_client.net.brokers import Broker
from session_contracts import Names

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

BROKER = Broker(URL("amqp://mq/"), "the URL", 5)
SILENCE = 0.05
LONG = 6 * SILENCE


def ignore(_: object) -> None:
    pass


def a_link() -> Link:
    """One that was never connected."""
    return Link(BROKER, None, Mock(), names=Names(), reply_queue=None, on_reply=ignore)


@pytest.fixture
async def link(monkeypatch: pytest.MonkeyPatch) -> Link:
    """A link that sent a request and has heard nothing since."""
    monkeypatch.setattr("session_client.link.SILENCE_SECONDS", SILENCE)
    link = a_link()
    monkeypatch.setattr(link, "blocked", AsyncMock(return_value=None))
    link._heard_when_asked = link._transport.reader.heard
    return link


async def is_given_up(link: Link) -> bool:
    watching = asyncio.create_task(link.watch())
    await asyncio.wait({watching}, timeout=LONG)
    given_up = watching.done()
    watching.cancel()
    await asyncio.wait({watching})
    return given_up


async def test_silence_after_a_request_is_a_lost_link(link: Link) -> None:
    assert await is_given_up(link)
    assert "silent" in link.lost.result()


async def test_silence_while_nothing_is_asked_is_none(link: Link) -> None:
    """What the broker said since the last request, whoever waited for it, is an answer: a caller who gave up
    must leave nothing behind that costs all others their link."""
    link._transport.reader.heard += 1
    assert not await is_given_up(link)


async def test_a_broker_that_blocks_is_not_silent(link: Link, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "blocked", AsyncMock(return_value="the broker blocks publishers"))
    assert not await is_given_up(link)


async def test_who_waits_is_told_that_the_link_is_lost() -> None:
    """Before and after it happened."""
    link = a_link()
    never: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    async with asyncio.timeout(5):
        waiting = asyncio.create_task(link.wait_for(never, 60))
        await asyncio.sleep(0)
        link.fail("gone")
        await waiting
        await link.wait_for(never, 60)


async def test_a_link_whose_closing_is_cancelled_leaves_no_goodbye_running(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A client is closed while its lost link is put away. aio-pika's goodbye may wait for ever if it is
    cancelled, and so would the event loop that is then ended."""
    link, cut = a_link(), asyncio.Event()

    async def end_when_cut(_: bool) -> None:
        await cut.wait()
        await asyncio.sleep(0.01)

    monkeypatch.setattr(link, "_say_goodbye", end_when_cut)
    monkeypatch.setattr(link._transport, "abort", cut.set)
    closing = asyncio.create_task(link.close())
    await asyncio.sleep(0)
    closing.cancel()
    await asyncio.wait({closing})
    assert closing.cancelled()
    assert "client-goodbye" not in {task.get_name() for task in asyncio.all_tasks()}


async def test_what_nobody_thought_of_is_told_and_costs_one_attempt(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A client without its keeper would be dead for good, and nobody would know why."""
    first, second = (a_link() for _ in range(2))
    links = AsyncMock(side_effect=[first, ZeroDivisionError("a surprise"), second])
    monkeypatch.setattr("session_client.link_keeper.first_to_open", links)
    keeper = LinkKeeper((URL("amqp://mq/"),), Mock())
    await keeper.start()
    assert await keeper.link(5) is first
    first.fail("gone")
    async with asyncio.timeout(10):
        while await keeper.link(1) is not second:
            await asyncio.sleep(0)
    assert keeper.is_running
    [told] = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert told.exc_info
    assert isinstance(told.exc_info[1], ZeroDivisionError)
    await keeper.stop()


@asynccontextmanager
async def broker(
    behave: Callable[[asyncio.StreamReader, asyncio.StreamWriter], object],
) -> AsyncIterator[str]:
    async with await asyncio.start_server(behave, "127.0.0.1", 0) as server:  # type: ignore[arg-type]
        yield f"amqp://ada:s3cret@127.0.0.1:{server.sockets[0].getsockname()[1]}/sales"


@pytest.mark.parametrize(
    ("farewell", "said"),
    [
        ("NOT_ALLOWED - access to vhost 'sales' refused for user 'ada'", "has no vhost sales, or user ada"),
        (
            "NOT_ALLOWED - access to vhost 'sales' refused for user 'ada': connection limit (0) is reached",
            "takes no more connections",
        ),
        (
            "INTERNAL_ERROR - access to vhost 'sales' refused for user 'ada': vhost 'sales' is down",
            "is not ready for vhost sales",
        ),
    ],
)
async def test_the_brokers_words_reach_who_opens_a_client(farewell: str, said: str) -> None:
    """The library reads them during the handshake and does not tell."""
    turns: list[pamqp.base.Frame] = [
        spec.Connection.Start(server_properties={}),
        spec.Connection.Tune(frame_max=131_072),
        spec.Connection.Close(541, farewell, 0, 0),
    ]

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for turn in turns:
            await reader.read(10_000)
            writer.write(pamqp.frame.marshal(turn, 0))
        while await reader.read(10_000):
            pass
        writer.close()

    async with broker(refuse) as url:
        with pytest.raises(ConnectionFailed, match=said) as caught:
            await SessionClient(url).open()
    assert "s3cret" not in str(caught.value)


async def test_a_server_that_hangs_up_at_once_is_a_sentence() -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10_000)
        writer.close()

    async with broker(hang_up) as url:
        with pytest.raises(ConnectionFailed, match="closed the connection before it was open"):
            await SessionClient(url).open()
