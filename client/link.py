"""A link: one connection to the broker, with one channel that publishes requests and consumes replies.

It is built whole, and after any failure torn down whole; the client then builds another. The many ways in
which a connection breaks (errors of three libraries, and a bare CancelledError that nobody asked for) leave
this file as one: ``LinkLostError``.
"""

from __future__ import annotations

import asyncio
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, cast

import aiormq
from aiormq.connection import TCPTransportFactory, TLSTransportFactory, TransportFactory
from aiormq.exceptions import (
    AMQPError,
    ChannelAccessRefused,
    ChannelNotFoundEntity,
    DeliveryError,
    InvalidFrameError,
    ProbableAuthenticationError,
    PublishError,
)
from pamqp.exceptions import PAMQPException

from client import tls
from contracts import DIRECT_REPLY_TO, Names
from contracts.trouble import access_trouble, network_trouble, tls_hang_up, tls_trouble

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from ssl import SSLContext

    from aiormq.abc import DeliveredMessage
    from aiormq.channel import Channel
    from pamqp.commands import Basic
    from pamqp.common import FieldValue
    from yarl import URL

OPEN_SECONDS = 5.0
"""Time to connect, declare the reply queue and consume from it."""
CLOSE_SECONDS = 2.0
"""Time for a tidy goodbye; then the socket is cut."""
SILENCE_SECONDS = 5.0
"""A link is given up when a publish has waited so long and the broker has said nothing at all since."""
CONSUMER_TAG = "replies"
REPLY_QUEUE_EXPIRES_MS = 300_000
"""An abandoned reply queue is deleted by the broker after this time without a consumer."""


class LinkLostError(Exception):
    """The link is gone or could not be built; whether a publish under way arrived is unknown."""


class NotRoutedError(Exception):
    """The broker has no place for this message. It was not kept."""


class NotAcceptedError(Exception):
    """The broker did not take this message now (basic.nack), for example because the queue is full."""


@contextmanager
def _guard() -> Iterator[None]:
    try:
        yield
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        # Nobody cancelled us: the library passes on the end of its own reader this way.
        raise LinkLostError("the connection was lost") from error
    except (AMQPError, PAMQPException, OSError, EOFError, RuntimeError) as error:
        raise LinkLostError(_reason(error)) from error


@contextmanager
def _tls(url: URL) -> Iterator[None]:
    try:
        yield
    except (AMQPError, OSError, StopAsyncIteration) as error:
        if url.scheme == "amqps":
            trouble = tls_trouble(error, "this broker", "cafile") or tls_hang_up(error, "this broker")
            if trouble:
                raise LinkLostError(trouble) from error
        raise


def _reason(error: BaseException | None) -> str:
    match error:
        case ProbableAuthenticationError():
            return "the broker refuses the login"
        case InvalidFrameError() if "Connection.OpenOk" in str(error):  # it closed instead
            return "there is no such vhost, or the user may not enter it"
        case TimeoutError():
            return f"no answer within {OPEN_SECONDS:g} s"
        case ChannelAccessRefused():
            return access_trouble(str(error), queue="configure or read", exchange="write") or str(error)
    if error is not None and (trouble := network_trouble(error)):
        return f"{trouble}; start the broker, or correct the URL"
    return str(error or "") or "the connection was lost"


class _Transport(TransportFactory):
    """Plain TCP or TLS; keeps the writer, because closing a connection to a silent peer needs its abort()."""

    writer: asyncio.StreamWriter | None = None

    async def create(self, url: URL, **kwargs: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        factory = TLSTransportFactory() if url.scheme == "amqps" else TCPTransportFactory()
        reader, self.writer = await factory.create(url, **kwargs)
        return reader, self.writer


class Link:
    """Use ``await Link.open(…)``. ``lost`` is done, with the reason, once the link can no longer be used."""

    _channel: Channel

    def __init__(
        self,
        url: URL,
        context: SSLContext | None,
        names: Names,
        reply_queue: str | None,
        on_reply: Callable[[DeliveredMessage], None],
    ) -> None:
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.reply_to = reply_queue or DIRECT_REPLY_TO
        self._reply_queue = reply_queue
        self._names = names
        self._on_reply = on_reply
        self._transport = _Transport()
        self._connection = aiormq.Connection(url, context=context, transport_factory=self._transport)
        self._unheard_since: float | None = None
        self._was_blocked = False

    @classmethod
    async def open(
        cls,
        url: URL,
        *,
        names: Names,
        reply_queue: str | None,
        on_reply: Callable[[DeliveredMessage], None],
        priority: int,
    ) -> Link:
        """Build a link whose replies go to ``reply_queue``, or by direct reply-to if that is None.

        ``on_reply`` is called for each reply and must not block. ``priority`` is higher for each next link of
        a client: the broker may not know yet that the last one is dead, and must not give it replies.

        Raises:
            LinkLostError: it cannot be built, or not within ``OPEN_SECONDS``; the message says why.
        """
        try:
            context = await tls.context_for(url)
        except tls.UnusableError as error:
            raise LinkLostError(str(error)) from error
        link = cls(url, context, names, reply_queue, on_reply)
        try:
            with _guard(), _tls(url):
                async with asyncio.timeout(OPEN_SECONDS):
                    await link._build(priority)
        except BaseException:
            await link.close()
            raise
        return link

    async def _build(self, priority: int) -> None:
        await self._connection.connect()
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

    async def publish(self, body: bytes, properties: Basic.Properties) -> None:
        """Send a request; returns when the broker has taken it. Waits while the broker blocks publishers.

        Raises:
            NotRoutedError, NotAcceptedError, LinkLostError.
        """
        with _guard():
            await self._connection.ready()
            if self._unheard_since is None:
                self._unheard_since = asyncio.get_running_loop().time()
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
                raise self._refusal(error) from error
        self._unheard_since = None

    def _refusal(self, error: AMQPError) -> Exception:
        self._unheard_since = None
        remedy = "start a worker, apply its topology, or correct the prefix"
        match error:
            case PublishError():
                return NotRoutedError(
                    f"no queue is bound to exchange {self._names.exchange!r} for "
                    f"{self._names.routing_key!r}; {remedy}"
                )
            case ChannelNotFoundEntity():
                return NotRoutedError(f"there is no exchange {self._names.exchange!r}; {remedy}")
            case DeliveryError():
                return NotAcceptedError("the broker does not accept the request, its queue may be full")
            case ChannelAccessRefused():
                return NotRoutedError(_reason(error))
        return LinkLostError(_reason(error))

    async def check(self) -> str | None:
        """Say what keeps publishes waiting; give the link up if they have met nothing but silence."""
        try:
            async with asyncio.timeout(0):
                await self._connection.ready()
        except TimeoutError:
            self._was_blocked = True
            return "the broker blocks publishers, it is short of memory or disk"
        now = asyncio.get_running_loop().time()
        if self._unheard_since is None:
            return None
        if self._was_blocked:
            self._was_blocked, self._unheard_since = False, now
        if now - self._unheard_since >= SILENCE_SECONDS:
            self.fail(f"the broker was silent for {SILENCE_SECONDS:g} s")
        return None

    def fail(self, reason: str) -> None:
        """Declare the link lost."""
        if not self.lost.done():
            self.lost.set_result(reason)

    async def close(self, *, delete_reply_queue: bool = False) -> None:
        """Say goodbye and disconnect, within a little more than ``CLOSE_SECONDS`` whatever the peer does."""
        goodbye = asyncio.create_task(self._say_goodbye(delete_reply_queue), name="client-goodbye")
        try:
            await asyncio.wait({goodbye}, timeout=CLOSE_SECONDS)
        finally:
            if self._transport.writer is not None:
                self._transport.writer.transport.abort()
        await asyncio.wait({goodbye}, timeout=CLOSE_SECONDS)

    async def _say_goodbye(self, delete_reply_queue: bool) -> None:
        with suppress(LinkLostError), _guard():
            if delete_reply_queue and self._reply_queue is not None and not self.lost.done():
                await self._channel.basic_cancel(CONSUMER_TAG)
                await self._channel.queue_delete(self._reply_queue)
        with suppress(LinkLostError), _guard():
            await self._connection.close()

    def _on_closing(self, closing: asyncio.Future[Any]) -> None:
        self.fail(_reason(None if closing.cancelled() else closing.exception()))

    async def _receive(self, message: DeliveredMessage) -> None:
        self._unheard_since = None
        self._on_reply(message)
