"""A link: one connection to the broker, with one channel that publishes requests and consumes replies.

It is built whole, and after any failure torn down whole; the client then builds another.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast

import aio_pika

from session_client.net.aiormq_errors import broker_errors, lost_by
from session_client.net.close_reasons import Kind, close_reason
from session_client.net.errors import LinkLostError
from session_client.net.transport import Transport
from session_client.publish_errors import (
    PERMISSIONS,
    NotAcceptedError,
    UnconfirmedError,
    publish_error,
)
from session_contracts import DIRECT_REPLY_TO, Names

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable
    from ssl import SSLContext

    from aio_pika.abc import AbstractChannel, AbstractExchange, AbstractIncomingMessage, AbstractQueue
    from aiormq.channel import Channel

    from session_client.net.brokers import Broker

CLOSE_SECONDS = 2.0
"""Time for a tidy goodbye; then the socket is cut."""
SILENCE_SECONDS = 5.0
"""A link is given up when the broker, asked to take a request, has said nothing at all for so long."""
CONSUMER_TAG = "replies"
REPLY_QUEUE_EXPIRES_MS = 300_000
"""An abandoned reply queue is deleted by the broker after this time without a consumer."""


class Link:
    """Built on a connected socket by ``open``. ``lost`` gets the reason once the link can no longer be used.

    Replies go to ``reply_queue``, or by direct reply-to if that is None. ``on_reply`` is called for each, and
    must not block.
    """

    _channel: AbstractChannel
    _exchange: AbstractExchange
    _replies: AbstractQueue

    def __init__(
        self,
        broker: Broker,
        context: SSLContext | None,
        connected: socket.socket,
        *,
        names: Names,
        reply_queue: str | None,
        on_reply: Callable[[AbstractIncomingMessage], None],
    ) -> None:
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.reply_to = reply_queue or DIRECT_REPLY_TO
        self._is_direct = reply_queue is None
        self._names = names
        self._on_reply = on_reply
        self._seconds = broker.seconds
        self._transport = Transport(broker, context, connected)
        self._connection = aio_pika.Connection(broker.url, ssl_context=context)
        # Handed on to aiormq: the socket that is connected already, and what tells of its silence.
        self._connection.kwargs["transport_factory"] = self._transport
        self._heard_when_asked: int | None = None
        """How much had been heard of the broker when it was last asked to take a request."""
        self._waiting: set[asyncio.Future[None]] = set()
        self._closed_by: BaseException | None = None

    async def open(self, priority: int) -> None:
        """Log in, declare the reply queue and consume from it.

        ``priority`` is higher for each next link of a client: the broker may not know yet that the last one
        is dead, and must not give it replies.

        Raises:
            LinkLostError: it cannot be built, or not in time; the message says why.
        """
        try:
            async with self._transport.opening():
                await self._connection.connect()
            with broker_errors(**PERMISSIONS):
                async with asyncio.timeout(self._seconds):
                    await self._build(priority)
        except BaseException:
            await self.close()
            raise

    async def _build(self, priority: int) -> None:
        self._connection.close_callbacks.add(self._on_closed)
        self._channel = self._connection.channel(on_return_raises=True)
        await self._channel.initialize()
        self._channel.close_callbacks.add(self._on_closed)
        # aio-pika itself does not tell that the broker cancelled a consumer; calls would wait in vain.
        underlay = cast("Channel", await self._channel.get_underlay_channel())
        underlay.on_consumer_cancel_callbacks.add(lambda _: self.fail("the reply queue was deleted"))
        self._exchange = await self._channel.get_exchange(self._names.exchange, ensure=False)
        if self._is_direct:
            self._replies = await self._channel.get_queue(self.reply_to, ensure=False)
        else:
            self._replies = await self._channel.declare_queue(
                self.reply_to,
                durable=True,
                arguments={"x-queue-type": "classic", "x-expires": REPLY_QUEUE_EXPIRES_MS},
            )
        # Without acks: a reply that is lost on its way is asked for again, because every call that waits
        # when a link is lost sends its request again.
        await self._replies.consume(
            self._receive,
            no_ack=True,
            arguments=None if self._is_direct else {"x-priority": priority},
            consumer_tag=CONSUMER_TAG,
        )

    async def publish(self, message: aio_pika.Message, routing_key: str, seconds: float) -> None:
        """Send a request, and return when the broker has taken it.

        Raises:
            NotRoutedError, NotAcceptedError, LinkLostError: it has not.
            UnconfirmedError: not within so many seconds.
        """
        if blocked := await self.blocked():
            raise NotAcceptedError(blocked)
        self._heard_when_asked = self._transport.reader.heard
        publishing = asyncio.create_task(
            self._exchange.publish(message, routing_key, mandatory=True), name="client-publish"
        )
        try:
            await self.wait_for(publishing, seconds)
            if not publishing.done():
                if self.lost.done():  # aiormq does not tell everybody who waits, or tells later
                    raise publish_error(self._closed_by, message.body, self._names.of(routing_key))
                raise UnconfirmedError(await self.blocked() or "the broker has not confirmed the request")
        finally:
            if publishing.cancel():
                await asyncio.wait({publishing}, timeout=CLOSE_SECONDS)
        try:
            with broker_errors():
                publishing.result()
        except LinkLostError as lost:
            raise publish_error(lost.__cause__, message.body, self._names.of(routing_key)) from lost

    async def wait_for(self, awaited: asyncio.Future[Any], seconds: float) -> None:
        """Wait for ``awaited``, at most so many seconds, and only while the link is not lost."""
        # Not for ``lost`` itself: who stops waiting for a future looks through all who wait for it.
        lost = asyncio.get_running_loop().create_future()
        if self.lost.done():
            lost.set_result(None)
        self._waiting.add(lost)
        try:
            await asyncio.wait({awaited, lost}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._waiting.discard(lost)

    async def watch(self) -> str:
        """Wait until the link is lost, and return why.

        A link is given up when the broker was asked to take a request and then said nothing at all.
        """
        while not self.lost.done():
            heard = self._transport.reader.heard
            was_asked = self._heard_when_asked == heard
            await asyncio.wait({self.lost}, timeout=SILENCE_SECONDS)
            if was_asked and heard == self._transport.reader.heard and not await self.blocked():
                self.fail(f"the broker was silent for {SILENCE_SECONDS:g} s")
        return self.lost.result()

    async def blocked(self) -> str | None:
        """Say what keeps the broker from taking requests, if it has said that something does."""
        transport = self._connection.transport
        try:
            async with asyncio.timeout(0):
                if transport is not None:
                    await transport.ready()
        except TimeoutError:
            return "the broker blocks publishers, it is short of memory or disk"
        return None

    @property
    def lost_by_a_request(self) -> bool:
        """Whether the broker closed it because of a request, whose caller is told."""
        reason = close_reason(str(self._closed_by))
        return reason is not None and reason.kind in {Kind.MISSING, Kind.PERMISSION, Kind.TOO_LARGE}

    def fail(self, why: str) -> None:
        """Declare the link lost."""
        if not self.lost.done():
            self.lost.set_result(why)
            for waiting in self._waiting:
                if not waiting.done():
                    waiting.set_result(None)

    async def close(self, *, delete_reply_queue: bool = False) -> None:
        """Say goodbye and disconnect, within a little more than ``CLOSE_SECONDS`` whatever the peer does."""
        goodbye = asyncio.create_task(
            self._say_goodbye(delete_reply_queue and not self.lost.done()), name="client-goodbye"
        )
        self.fail("the connection was closed")
        try:
            await asyncio.wait({goodbye}, timeout=CLOSE_SECONDS)
        finally:
            self._transport.abort()
            await asyncio.wait({goodbye}, timeout=CLOSE_SECONDS)

    async def _say_goodbye(self, delete_reply_queue: bool) -> None:
        with suppress(LinkLostError), broker_errors():
            if delete_reply_queue and not self._is_direct:
                await self._replies.cancel(CONSUMER_TAG)
                await self._replies.delete(if_unused=False, if_empty=False)
        with suppress(LinkLostError), broker_errors():
            await self._connection.close()

    def _on_closed(self, _: object, error: BaseException | None) -> None:
        self._closed_by = self._closed_by or error
        self.fail(str(lost_by(self._closed_by, **PERMISSIONS)))

    async def _receive(self, message: AbstractIncomingMessage) -> None:
        self._on_reply(message)
