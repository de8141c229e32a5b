"""Publishing with confirms. Messages that are ready at the same time share one write to the socket.

One message can make the broker close the channel (no permission, too large) or, sent to a malformed direct
reply-to address, the whole connection. Whatever was in flight with it is then sent once more *alone*, on a
connection kept for that: only the message that closes that one too is refused.
"""

from __future__ import annotations

import asyncio
import itertools
import struct
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aiormq.exceptions import ConnectionClosed

from contracts.amqp import is_direct_reply_to
from contracts.trouble import access_trouble
from worker import frames
from worker.connection import ForbiddenError, LinkLostError, RawChannel, Wire
from worker.identifiers import new_message_id

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pamqp import commands as spec

CONFIRM_SECONDS = 10.0
UNSENT_BYTES = 1_048_576
SWEEP_SECONDS = 1.0
PROBE_SECONDS = 5.0


class PublishError(Exception):
    """The broker did not take the message; the message says why."""


class UnroutableError(PublishError):
    """No queue of that name."""


class NackedError(PublishError):
    """The queue refused it, for example because it is full."""


class UnconfirmedError(PublishError):
    """No answer in time: it may or may not have arrived."""


class RefusedError(PublishError):
    """It can never be sent like this: the broker closes the channel over it, or it cannot be encoded."""


class ChannelLostError(Exception):
    """The channel went away under the message. ``accused`` when the broker closed it over what was sent."""

    def __init__(self, reason: str, *, accused: bool) -> None:
        super().__init__(reason)
        self.accused = accused


@dataclass(frozen=True, slots=True)
class Message:
    """What is published, always to the default exchange: the routing key is the queue's name."""

    queue: str
    body: bytes
    properties: frames.Properties
    mandatory: bool = True


@dataclass(slots=True)
class _Pending:
    message_id: str
    confirmed: asyncio.Future[None]
    heard: int
    age: float = 0.0
    returned: str | None = None


class PublishChannel(RawChannel):
    """A channel in confirm mode that keeps its own book of what is unconfirmed."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._pending: dict[int, _Pending] = {}
        self._returnable: dict[str, _Pending] = {}
        self._outbox: list[bytes] = []
        self._tag = 0
        self._returning: str | None = None
        self._gone: ChannelLostError | None = None
        self.closing.add_done_callback(self._on_gone)

    @property
    def usable(self) -> bool:
        return self._gone is None and not self.wire.lost.done()

    def send(self, message: Message) -> asyncio.Future[None]:
        """Send soon, together with whatever else is sent now; the future tells how it went.

        Raises:
            ChannelLostError: the channel is gone already.
            RefusedError: the message cannot be encoded.
        """
        if self._gone is not None:
            raise ChannelLostError(str(self._gone), accused=False)
        message_id = new_message_id()
        data = self._encode(message, message_id)
        self._tag += 1
        pending = _Pending(message_id, self.loop.create_future(), self.wire.heard)
        self._pending[self._tag] = pending
        if message.mandatory:
            self._returnable[message_id] = pending
        if not self._outbox:
            self.loop.call_soon(self._flush)
        self._outbox.append(data)
        return pending.confirmed

    def grow_older(self, seconds: float) -> None:
        """Let unconfirmed messages age; time during which the broker is blocked does not count.

        A broker that has sent nothing since the message went out may be away. The message waits until the
        broker sends something, and is unconfirmed then, or has been silent for so long that the connection
        counts as lost.
        """
        patience = self.wire.longest_silence
        for pending in list(self._pending.values()):
            pending.age += seconds
            if pending.age <= CONFIRM_SECONDS or pending.confirmed.done():
                continue
            if patience is None or self.wire.heard != pending.heard:
                pending.confirmed.set_exception(
                    UnconfirmedError(f"the broker did not confirm within {CONFIRM_SECONDS:g} s")
                )
            elif pending.age > patience:
                silent = f"the broker has sent nothing for {pending.age:g} s, not even a heartbeat"
                self.wire.lose(silent)
                return self._lose(ChannelLostError(silent, accused=False))
        return None

    def _encode(self, message: Message, message_id: str) -> bytes:
        message.properties.message_id = message_id
        try:
            return frames.publish(
                self.number,
                message.queue,
                message.properties,
                message.body,
                mandatory=message.mandatory,
                max_frame=self.wire.max_frame,
            )
        except (ValueError, TypeError, AttributeError, struct.error) as error:
            raise RefusedError(f"the message cannot be encoded: {error}") from error

    def _flush(self) -> None:
        if self._gone is not None or not self._outbox:
            return
        if self.wire.unsent > UNSENT_BYTES:
            self.loop.call_later(0.01, self._flush)
            return
        data = b"".join(self._outbox)
        self._outbox.clear()
        try:
            self.wire.write(data)
        except LinkLostError as error:
            self._lose(ChannelLostError(str(error), accused=False))

    # ------------------------------------------------------- what comes off the socket

    def feed(self, kind: int, payload: bytes) -> bool:
        """Take confirms, and returned messages, which come before their confirm; the rest is aiormq's."""
        if kind != frames.METHOD:
            return self._feed_returned(kind, payload)
        if payload.startswith((frames.ACK, frames.NACK)):
            self._confirm(*frames.confirmation(payload), nack=payload.startswith(frames.NACK))
        elif payload.startswith(frames.RETURN):
            self._returning = frames.reason(payload)
        else:
            return False
        return True

    def _feed_returned(self, kind: int, payload: bytes) -> bool:
        if kind == frames.HEADER and self._returning is not None:
            message_id = frames.properties(payload).message_id or ""
            pending = self._returnable.pop(message_id, None)
            if pending is not None:
                pending.returned = f"there is no queue of that name ({self._returning})"
            self._returning = None
        return True

    def _confirm(self, last: int, multiple: bool, *, nack: bool) -> None:
        if multiple:
            tags = list(itertools.takewhile(lambda tag: tag <= last, self._pending))
        else:
            tags = [last] if last in self._pending else []
        for tag in tags:
            pending = self._pending.pop(tag)
            self._returnable.pop(pending.message_id, None)
            if pending.confirmed.done():
                continue
            if nack:
                pending.confirmed.set_exception(NackedError("the queue refused the message; it may be full"))
            elif pending.returned is not None:
                pending.confirmed.set_exception(UnroutableError(pending.returned))
            else:
                pending.confirmed.set_result(None)

    # ------------------------------------------------------------- what aiormq's reader calls

    async def _on_close_frame(self, frame: spec.Channel.Close) -> None:
        self._lose(ChannelLostError(f"{frame.reply_code} {frame.reply_text}", accused=True))
        await super()._on_close_frame(frame)

    def _on_gone(self, closing: asyncio.Future[Any]) -> None:
        error = None if closing.cancelled() else closing.exception()
        # The plain class stands for a broker that shuts down, its subclasses for what a client did wrong.
        accused = isinstance(error, ConnectionClosed) and type(error) is not ConnectionClosed
        self._lose(ChannelLostError(f"{type(error).__name__}: {error}", accused=accused))

    def _lose(self, lost: ChannelLostError) -> None:
        if self._gone is not None:
            return
        self._gone = lost
        self._outbox.clear()
        pending, self._pending = self._pending, {}
        self._returnable.clear()
        for one in pending.values():
            if not one.confirmed.done():
                one.confirmed.set_exception(lost)
                one.confirmed.exception()


class _Pipe:
    """A publishing channel that is opened when first needed, and again when it is gone."""

    def __init__(self, wire: Callable[[], Awaitable[Wire]]) -> None:
        self._wire = wire
        self._opening = asyncio.Lock()
        self._channel: PublishChannel | None = None

    async def channel(self) -> PublishChannel:
        if self._channel is None or not self._channel.usable:
            async with self._opening:
                if self._channel is None or not self._channel.usable:
                    wire = await self._wire()
                    self._channel = await wire.channel(PublishChannel, confirms=True)
        return self._channel

    def grow_older(self, seconds: float) -> None:
        if self._channel is not None and not self._channel.wire.blocked:
            self._channel.grow_older(seconds)


class _OwnWire:
    """A connection apart from the link's, opened when first needed: losing it is not losing the link."""

    def __init__(self, open_wire: Callable[[], Awaitable[Wire]]) -> None:
        self._open = open_wire
        self._wire: Wire | None = None
        self._closed = False

    async def __call__(self) -> Wire:
        if self._wire is None or self._wire.lost.done():
            if self._wire is not None:
                await self._wire.close()
            self._wire = await self._open()
            if self._closed:
                await self._wire.close()
        return self._wire

    async def close(self) -> None:
        self._closed = True
        if self._wire is not None:
            await self._wire.close()


class Publisher:
    """Publishes for one link: on the link's own connection, and to direct reply-to addresses on another."""

    def __init__(self, wire: Wire, open_wire: Callable[[str], Awaitable[Wire]]) -> None:
        self._wire = wire
        self._own_wires = (
            _OwnWire(lambda: open_wire("direct replies")),
            _OwnWire(lambda: open_wire("suspects")),
        )
        self._queues = _Pipe(self._link_wire)
        self._direct = _Pipe(self._own_wires[0])
        self._alone = _Pipe(self._own_wires[1])
        self._alone_turn = asyncio.Lock()

    async def publish(self, message: Message) -> None:
        """Return when the broker has confirmed the message.

        Raises:
            UnroutableError, NackedError, UnconfirmedError, RefusedError: it did not.
            LinkLostError: the link is gone; nothing is known about the message.
        """
        pipe = self._direct if is_direct_reply_to(message.queue) else self._queues
        try:
            await self._send(pipe, message)
        except ChannelLostError:
            if self._wire.lost.done():
                raise LinkLostError(self._wire.lost.result()) from None
            await self._publish_alone(message)

    async def probe(self) -> None:
        """Publish to no queue: a broker that refuses even this would refuse everything.

        Raises:
            ForbiddenError: the user may not publish.
            LinkLostError: the link is gone.
        """
        with suppress(PublishError, TimeoutError):  # no answer while there is an alarm
            async with asyncio.timeout(PROBE_SECONDS):
                await self.publish(Message("", b"", frames.Properties(), mandatory=False))

    async def run(self) -> None:
        """Give up on confirms that do not come. Runs as long as the link."""
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            for pipe in (self._queues, self._direct, self._alone):
                pipe.grow_older(SWEEP_SECONDS)

    async def close(self) -> None:
        await asyncio.gather(*(wire.close() for wire in self._own_wires))

    async def _link_wire(self) -> Wire:
        if self._wire.lost.done():
            raise LinkLostError(self._wire.lost.result())
        return self._wire

    async def _send(self, pipe: _Pipe, message: Message) -> None:
        try:
            channel = await pipe.channel()
        except LinkLostError as lost:
            if self._wire.lost.done():
                raise
            # A connection of our own did not come about, and the link lives: its delivery must be settled.
            raise UnconfirmedError(f"there is no channel to send it on: {lost}") from lost
        try:
            await channel.send(message)
        except ChannelLostError as lost:
            # The message is not to blame, and none must be given up: the link waits for the permission.
            if trouble := access_trouble(str(lost), exchange="write"):
                self._wire.lose(trouble)
                raise ForbiddenError(trouble) from lost
            raise

    async def _publish_alone(self, message: Message) -> None:
        async with self._alone_turn:
            try:
                await self._send(self._alone, message)
            except ChannelLostError as lost:
                if lost.accused:
                    raise RefusedError(f"the broker refused the message: {lost}") from lost
                raise UnconfirmedError(
                    f"the connection was lost while the message was sent: {lost}"
                ) from lost
