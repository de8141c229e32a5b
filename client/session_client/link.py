"""A link: one connection to the broker, with one channel that publishes requests and consumes replies.

It is built whole, and after any failure torn down whole; the client then builds another.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import aiormq
from aiormq.exceptions import AMQPError

from session_client.broken import (
    BROKEN,
    LinkLostError,
    NotAcceptedError,
    UnconfirmedError,
    guard,
    is_about_a_request,
    reason,
    refusal,
)
from session_client.transport import Transport
from session_contracts import DIRECT_REPLY_TO, Names

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable
    from ssl import SSLContext

    from aiormq.abc import DeliveredMessage
    from aiormq.channel import Channel
    from pamqp.commands import Basic
    from pamqp.common import FieldValue
    from yarl import URL

OPEN_SECONDS = 5.0
"""Time to connect to one address; and to log in there, declare the reply queue and consume from it."""
CLOSE_SECONDS = 2.0
"""Time for a tidy goodbye; then the socket is cut."""
SILENCE_SECONDS = 5.0
"""A link is given up when the broker, asked to take a request, has said nothing at all for so long."""
CONSUMER_TAG = "replies"
REPLY_QUEUE_EXPIRES_MS = 300_000
"""An abandoned reply queue is deleted by the broker after this time without a consumer."""


class Broker(NamedTuple):
    """Where to connect to. ``context``: for TLS."""

    url: URL
    context: SSLContext | None


class Link:
    """Use ``await Link.open(…)``. ``lost`` is done, with the reason, once the link can no longer be used."""

    _channel: Channel

    def __init__(
        self,
        broker: Broker,
        connected: socket.socket,
        names: Names,
        reply_queue: str | None,
        on_reply: Callable[[DeliveredMessage], None],
    ) -> None:
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.reply_to = reply_queue or DIRECT_REPLY_TO
        self._reply_queue = reply_queue
        self._names = names
        self._on_reply = on_reply
        self._transport = Transport(connected, broker.context)
        self._connection = aiormq.Connection(
            broker.url, context=broker.context, transport_factory=self._transport
        )
        self._asked_at: int | None = None
        """How much had been heard of the broker when it was last asked to take a request."""
        self._waiting: set[asyncio.Future[None]] = set()
        self._closed_by: BaseException | None = None

    @classmethod
    async def open(
        cls,
        broker: Broker,
        connected: socket.socket,
        *,
        names: Names,
        reply_queue: str | None,
        on_reply: Callable[[DeliveredMessage], None],
        priority: int,
    ) -> Link:
        """Build a link on a connected socket.

        Replies go to ``reply_queue``, or by direct reply-to if that is None.

        ``on_reply`` is called for each reply and must not block. ``priority`` is higher for each next link of
        a client: the broker may not know yet that the last one is dead, and must not give it replies.

        Raises:
            LinkLostError: it cannot be built, or not within ``OPEN_SECONDS``; the message says why.
        """
        link = cls(broker, connected, names, reply_queue, on_reply)
        try:
            with guard():
                await link._open(priority)
        except BaseException:
            await link.close()
            raise
        return link

    async def _open(self, priority: int) -> None:
        try:
            async with asyncio.timeout(OPEN_SECONDS):
                await self._connect()
                await self._build(priority)
        except TimeoutError as error:
            raise LinkLostError(f"no answer within {OPEN_SECONDS:g} s") from error

    async def _connect(self) -> None:
        try:
            await self._connection.connect()
        except BROKEN as error:
            raise LinkLostError(self._transport.trouble(error, self._connection)) from error

    async def _build(self, priority: int) -> None:
        self._connection.closing.add_done_callback(self._on_closing)
        self._channel = cast("Channel", await self._connection.channel(on_return_raises=True))
        self._channel.closing.add_done_callback(self._on_closing)
        self._channel.on_consumer_cancel_callbacks.add(lambda _: self.fail("the reply queue was deleted"))
        arguments: dict[str, FieldValue] = {}
        if self._reply_queue is not None:
            await self._channel.queue_declare(
                self._reply_queue,
                durable=True,
                arguments={"x-queue-type": "classic", "x-expires": REPLY_QUEUE_EXPIRES_MS},
            )
            arguments = {"x-priority": priority}
        # Without acks: a reply that is lost on its way is asked for again, because every call that waits
        # when a link is lost sends its request again.
        await self._channel.basic_consume(
            self.reply_to, self._receive, no_ack=True, arguments=arguments, consumer_tag=CONSUMER_TAG
        )

    async def publish(self, body: bytes, properties: Basic.Properties, seconds: float) -> None:
        """Send a request; returns when the broker has taken it.

        Raises:
            NotRoutedError, NotAcceptedError, LinkLostError: it has not.
            UnconfirmedError: not within so many seconds.
        """
        if trouble := await self.trouble():
            raise NotAcceptedError(trouble)
        publishing = asyncio.create_task(self._publish(body, properties), name="client-publish")
        try:
            await self.wait_for(publishing, seconds)
            if publishing.done():
                return publishing.result()
            if self.lost.done():  # aiormq does not tell everybody who waits, or tells later
                raise refusal(self._closed_by, body, self._names)
            raise UnconfirmedError(await self.trouble() or "the broker has not confirmed the request")
        finally:
            if publishing.cancel():
                await asyncio.wait({publishing}, timeout=CLOSE_SECONDS)

    async def _publish(self, body: bytes, properties: Basic.Properties) -> None:
        self._asked_at = self._transport.heard
        with guard():
            try:
                await self._channel.basic_publish(
                    body,
                    exchange=self._names.exchange,
                    routing_key=self._names.routing_key,
                    properties=properties,
                    mandatory=True,
                    wait=False,
                )
            except AMQPError as error:
                raise refusal(error, body, self._names) from error

    async def wait_for(self, awaited: asyncio.Future[Any], seconds: float) -> None:
        """Wait, but no longer than so many seconds, nor when the link is lost."""
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
        """Return why the link can no longer be used, once it is so.

        It is given up when requests were sent, and the broker has met them with silence.
        """
        while not self.lost.done():
            heard = self._transport.heard
            was_asked = self._asked_at == heard
            await asyncio.wait({self.lost}, timeout=SILENCE_SECONDS)
            if was_asked and heard == self._transport.heard and not await self.trouble():
                self.fail(f"the broker was silent for {SILENCE_SECONDS:g} s")
        return self.lost.result()

    async def trouble(self) -> str | None:
        """What the broker says keeps it from taking requests."""
        try:
            async with asyncio.timeout(0):
                await self._connection.ready()
        except TimeoutError:
            return "the broker blocks publishers, it is short of memory or disk"
        return None

    @property
    def lost_by_a_request(self) -> bool:
        """Whether the broker closed it because of a request, whose caller is told."""
        return is_about_a_request(self._closed_by)

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
        with suppress(LinkLostError), guard():
            if delete_reply_queue and self._reply_queue is not None:
                await self._channel.basic_cancel(CONSUMER_TAG)
                await self._channel.queue_delete(self._reply_queue)
        with suppress(LinkLostError), guard():
            await self._connection.close()

    def _on_closing(self, closing: asyncio.Future[Any]) -> None:
        self._closed_by = self._closed_by or (None if closing.cancelled() else closing.exception())
        self.fail(reason(self._closed_by))

    async def _receive(self, message: DeliveredMessage) -> None:
        self._on_reply(message)
