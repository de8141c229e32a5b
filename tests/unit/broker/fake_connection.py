"""A connection that is none: aiormq's channels run on it, and what they write is kept as frames."""

import asyncio
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, TypeVar, cast

import aiormq
import pamqp.frame
from aiormq.base import FutureStore

from session_client.net.errors import LinkLostError
from session_worker.broker.connection import Connection, FrameChannel

AnyChannel = TypeVar("AnyChannel", bound=aiormq.Channel)


class FakeConnection:
    """Takes what is written, as a socket would, and can be lost or full."""

    def __init__(self) -> None:
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.blocked = False
        self.unsent = 0
        self.max_frame = 131_072
        self.heard = 0
        self.longest_silence: float | None = 15.0
        self.written: list[bytes] = []
        self.refuses_channels: Exception | None = None
        self.channels: list[aiormq.Channel] = []
        self.closed = False

    def write(self, frames: bytes) -> None:
        if self.lost.done():
            raise LinkLostError("the connection was lost")
        self.written.append(frames)

    async def frame_channel(
        self, factory: type[AnyChannel], *, confirms: bool = False, vital: bool = False
    ) -> AnyChannel:
        if self.refuses_channels is not None:
            raise self.refuses_channels
        channel = open_channel(factory)
        if isinstance(channel, FrameChannel):
            channel.parent = as_connection(self)
        self.channels.append(channel)
        return channel

    def lose(self, reason: str) -> None:
        if not self.lost.done():
            self.lost.set_result(reason)

    async def close(self) -> None:
        self.closed = True
        self.lose("closed")

    def frames(self) -> list[Any]:
        """All frames written so far, in order, decoded."""
        return list(_frames(b"".join(self.written)))


def _frames(data: bytes) -> Iterator[Any]:
    while data:
        size, _, frame = pamqp.frame.unmarshal(data)
        yield frame
        data = data[size:]


def as_connection(fake: FakeConnection) -> Connection:
    return cast("Connection", fake)


def open_channel(factory: type[AnyChannel]) -> AnyChannel:
    """A channel of a connection that only lends it a loop, a frame size and a queue to write to.

    Nothing reads for it: a test calls what aiormq's reader would call.
    """
    loop = asyncio.get_running_loop()
    connection = SimpleNamespace(
        loop=loop,
        publisher_confirms=True,
        connection_tune=SimpleNamespace(frame_max=131_072),
        write_queue=asyncio.Queue[Any](),
        _future_store_child=FutureStore(loop=loop).get_child,
    )
    still: Any = type(f"Still{factory.__name__}", (factory,), {"_reader": _read_nothing})
    return cast("AnyChannel", still(connection, 1, frame_buffer=None))


async def _read_nothing(_: aiormq.Channel) -> None:
    pass


def feed(channel: FrameChannel, frame: Any) -> None:
    """Hand over a frame as it would come off the socket."""
    data = pamqp.frame.marshal(frame, 1)
    assert channel.feed(data[0], data[7:-1])


async def breathe() -> None:
    """Let everything run that can run now."""
    for _ in range(10):
        await asyncio.sleep(0)
