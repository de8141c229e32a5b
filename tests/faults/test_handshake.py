"""A peer that hangs up while a connection is made: a broker that starts or stops, a proxy without one."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from session_client.net.errors import ConnectError
from session_client.net.transport import Transport
from session_worker.broker.connection import Connection

pytestmark = pytest.mark.faults


@pytest.mark.parametrize("early", [True, False])
async def test_a_peer_that_hangs_up_in_the_handshake_is_no_connection(
    monkeypatch: pytest.MonkeyPatch, early: bool
) -> None:
    """Whether that is seen before the handshake begins or within it, another try may succeed."""
    create = Transport.create

    async def create_and_hear(self: Any, *args: Any, **kwargs: Any) -> Any:
        reader, writer = await create(self, *args, **kwargs)
        while early and not reader.at_eof():
            await asyncio.sleep(0)
        return reader, writer

    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    monkeypatch.setattr(Transport, "create", create_and_hear)
    async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(ConnectError) as caught:
            await Connection.open([f"amqp://guest:guest@127.0.0.1:{port}/"], "test")
    assert not caught.value.permanent
