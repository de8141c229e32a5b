"""The breakable wire of the fault tests does what its modes say."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest

from tests.support.tcp_proxy import TcpProxy
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.tcp_proxy import Mode


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while block := await reader.read(65_536):
            writer.write(block)
            await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.close()


@pytest.fixture
async def wire() -> AsyncIterator[TcpProxy]:
    server = await asyncio.start_server(_echo, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, TcpProxy(f"amqp://guest:guest@127.0.0.1:{port}/vhost") as wire:
        yield wire


async def connect(wire: TcpProxy) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", wire.port)
    writer.write(b"hello")
    assert await asyncio.wait_for(reader.readexactly(5), 5) == b"hello"
    return reader, writer


async def test_the_url_differs_in_host_and_port_alone(wire: TcpProxy) -> None:
    assert wire.url == f"amqp://guest:guest@127.0.0.1:{wire.port}/vhost"


async def test_a_cut_is_the_end_of_the_stream(wire: TcpProxy) -> None:
    reader, writer = await connect(wire)
    wire.cut()
    assert await asyncio.wait_for(reader.read(), 5) == b""
    writer.close()
    await eventually(lambda: wire.connections == 0)


async def test_a_reset_is_an_error(wire: TcpProxy) -> None:
    reader, writer = await connect(wire)
    wire.reset()
    with pytest.raises(ConnectionResetError):
        await asyncio.wait_for(reader.read(), 5)
    writer.close()
    await eventually(lambda: wire.connections == 0)


@pytest.mark.parametrize("mode", ["stall", "stall-up", "stall-down"])
async def test_a_stalled_wire_holds_back_what_it_passes_on_later(wire: TcpProxy, mode: Mode) -> None:
    reader, writer = await connect(wire)
    wire.mode = mode
    writer.write(b"later")
    answer = asyncio.create_task(reader.readexactly(5))
    await asyncio.wait({answer}, timeout=0.2)
    assert not answer.done()
    assert wire.connections == 1
    wire.mode = "pass"
    assert await asyncio.wait_for(answer, 5) == b"later"
    writer.close()


async def test_a_slow_wire_takes_its_time(wire: TcpProxy) -> None:
    reader, writer = await connect(wire)
    wire.mode = "slow"
    wire.bytes_per_second = 2000
    start = time.monotonic()
    writer.write(b"x" * 600)
    await asyncio.wait_for(reader.readexactly(600), 10)
    assert time.monotonic() - start >= 0.25
    writer.close()


async def test_a_refusing_wire_keeps_its_connections_and_accepts_again_on_its_port(wire: TcpProxy) -> None:
    _, writer = await connect(wire)
    port = wire.port
    await wire.refuse()
    with pytest.raises(ConnectionRefusedError):
        await connect(wire)
    assert wire.connections == 1
    await wire.accept()
    assert wire.port == port
    _, another = await connect(wire)
    for each in (writer, another):
        each.close()
