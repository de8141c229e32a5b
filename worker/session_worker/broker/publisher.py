"""Publish for one link.

A single message can make the broker close the channel (it is too large, say) or the whole connection (its
direct reply-to address is malformed). All messages that were in flight are then sent once more, one at a
time, on a connection of their own: the message that closes that one too is unsendable.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

from session_client.net.close_reasons import Kind, close_reason
from session_client.net.errors import ForbiddenError, LinkLostError
from session_contracts.amqp import is_direct_reply_to
from session_worker.broker import backoff
from session_worker.broker.confirms import ChannelLostError, ConfirmChannel
from session_worker.messages.errors import NotConnectedError, PublishError, UnconfirmedError, UnsendableError
from session_worker.messages.message import Message, Properties

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tenacity import RetryCallState

    from session_worker.broker.connection import Connection

SWEEP_SECONDS = 1.0
PROBE_SECONDS = 5.0
OPEN_SECONDS = 60.0
"""How long messages wait for a separate connection before they count as not sent."""


class _ChannelOnDemand:
    """A channel that is opened when it is first needed, and again after it is gone; once for all who wait."""

    def __init__(self, get_connection: Callable[[], Awaitable[Connection]]) -> None:
        self._get_connection = get_connection
        self._opening: asyncio.Task[ConfirmChannel] | None = None
        self._channel: ConfirmChannel | None = None

    async def channel(self) -> ConfirmChannel:
        """Raises LinkLostError: it could not be opened."""
        if self._channel is not None and self._channel.usable:
            return self._channel
        if self._opening is None:
            self._opening = asyncio.create_task(self._open(), name="publishing channel")
            self._opening.add_done_callback(self._opened)
        return await asyncio.shield(self._opening)

    async def _open(self) -> ConfirmChannel:
        connection = await self._get_connection()
        return await connection.frame_channel(ConfirmChannel, confirms=True)

    def _opened(self, opening: asyncio.Task[ConfirmChannel]) -> None:
        self._opening = None
        if not opening.cancelled() and opening.exception() is None:
            self._channel = opening.result()

    def age_unconfirmed(self, seconds: float) -> None:
        if self._channel is not None and not self._channel.parent.blocked:
            self._channel.age_unconfirmed(seconds)


class _ConnectionOnDemand(_ChannelOnDemand):
    """A channel on a connection of its own, which may be lost without the link being lost.

    Opening is repeated for ``OPEN_SECONDS``. ``trouble`` says why there is no connection while messages wait
    for it.
    """

    def __init__(self, connect: Callable[[str], Awaitable[Connection]], purpose: str) -> None:
        super().__init__(self._own_connection)
        self._connect = connect
        self._purpose = purpose
        self._own: Connection | None = None
        self._closed = asyncio.Event()
        self.trouble = ""

    async def close(self) -> None:
        self._closed.set()
        if self._own is not None:
            await self._own.close()

    async def _open(self) -> ConfirmChannel:
        trying = backoff.until_stopped(self._closed, LinkLostError, self._on_failure, self._too_long)
        try:
            return await trying(super()._open)
        finally:
            self.trouble = ""  # also after a failure: nobody waits any more

    async def _own_connection(self) -> Connection:
        if self._own is not None and self._own.lost.done():
            await self._own.close()
            self._own = None
        if self._own is None:
            self._own = await self._connect(self._purpose)
            if self._closed.is_set():
                await self._own.close()
        return self._own

    def _on_failure(self, state: RetryCallState) -> None:
        self.trouble = str(state.outcome.exception()) if state.outcome else ""

    @staticmethod
    def _too_long(state: RetryCallState) -> bool:
        return (state.seconds_since_start or 0) + state.upcoming_sleep > OPEN_SECONDS


class Publisher:
    """Publishes for one link: on the link's own connection, and to direct reply-to addresses on another."""

    def __init__(self, connection: Connection, connect: Callable[[str], Awaitable[Connection]]) -> None:
        self._connection = connection
        self._queues = _ChannelOnDemand(self._link_connection)
        self._direct = _ConnectionOnDemand(connect, "direct replies")
        self._alone = _ConnectionOnDemand(connect, "suspects")
        self._alone_turn = asyncio.Lock()

    @property
    def trouble(self) -> str:
        """Why replies wait for a separate connection; empty if none does."""
        return self._direct.trouble or self._alone.trouble

    async def publish(self, message: Message) -> None:
        """Return when the broker has confirmed the message.

        Raises:
            UnroutableError, NackedError, UnconfirmedError, NotConnectedError, UnsendableError: it did not.
            LinkLostError: the link is gone; nothing is known about the message.
        """
        source = self._direct if is_direct_reply_to(message.queue) else self._queues
        try:
            await self._send(source, message)
        except ChannelLostError:
            if self._connection.lost.done():
                raise LinkLostError(self._connection.lost.result()) from None
            await self._publish_alone(message)

    async def probe(self) -> None:
        """Publish to no queue, to find out early whether this user may publish at all.

        Raises:
            ForbiddenError: the user may not publish.
            LinkLostError: the link is gone.
        """
        with suppress(PublishError, TimeoutError):  # during an alarm the broker does not answer
            async with asyncio.timeout(PROBE_SECONDS):
                await self.publish(Message("", b"", Properties(), mandatory=False))

    async def run(self) -> None:
        """Give up on confirms that do not come, as long as the link lives."""
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            for source in (self._queues, self._direct, self._alone):
                source.age_unconfirmed(SWEEP_SECONDS)

    async def close(self) -> None:
        await asyncio.gather(self._direct.close(), self._alone.close())

    async def _link_connection(self) -> Connection:
        if self._connection.lost.done():
            raise LinkLostError(self._connection.lost.result())
        return self._connection

    async def _send(self, source: _ChannelOnDemand, message: Message) -> None:
        try:
            channel = await source.channel()
        except LinkLostError as lost:
            if self._connection.lost.done():
                raise LinkLostError(self._connection.lost.result()) from lost
            # The link lives, so the delivery must be settled.
            kind = UnconfirmedError if source is self._queues else NotConnectedError
            raise kind(f"there is no channel to send it on: {lost}") from lost
        try:
            await channel.send(message)
        except ChannelLostError as lost:
            # No message may be given up over a missing permission: the link is built anew until it is
            # granted.
            reason = close_reason(str(lost), exchange="write")
            if reason is not None and reason.kind is Kind.PERMISSION:
                self._connection.lose(str(reason.diagnosis))
                raise ForbiddenError(reason.diagnosis) from lost
            raise

    async def _publish_alone(self, message: Message) -> None:
        async with self._alone_turn:
            try:
                await self._send(self._alone, message)
            except ChannelLostError as lost:
                if lost.over_a_message:
                    raise UnsendableError(f"the broker does not accept the message: {lost}") from lost
                raise UnconfirmedError(
                    f"the connection was lost while the message was sent: {lost}"
                ) from lost
