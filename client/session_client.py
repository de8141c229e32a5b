"""The requester: many calls in flight over one connection and one reply consumer.

A call sends its request, and sends it again, with the same request id, when the link is lost, when a try's
time ends without a reply, or when the broker does not accept it: until its deadline. That is safe because
one request id has one outcome. A try waits 5 s for the reply, the next one 10 s, then 20 s and so on, so that
callers do not pile more onto a worker that is merely busy.
"""

from __future__ import annotations

import asyncio
import logging
import re
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal, Self
from uuid import UUID, uuid4

from pydantic import ValidationError
from tenacity import AsyncRetrying, retry_if_exception_type, wait_random_exponential
from yarl import URL

from client.call import Call
from client.errors import ClientClosed, ConnectionFailed, RequestNotRouted, RequestTimedOut
from client.link import Link, LinkLostError, NotAcceptedError, NotRoutedError
from contracts import CreateSessionRequest, Names, problems

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from aiormq.abc import DeliveredMessage

    from contracts import CreateSessionResponse

log = logging.getLogger(__name__)

HEARTBEAT = 10
"""Seconds between heartbeats, unless the URL says otherwise."""
PAUSE_SECONDS = 0.5
"""Before a request that the broker did not accept is sent again."""
HEALTHY_SECONDS = 5.0
"""A link that lived so long is replaced at once, a shorter-lived one after a pause that grows."""
MAX_TIMEOUT = 86_400.0


class SessionClient:
    """Creates sessions by asking the workers over RabbitMQ.

    ``async with SessionClient(url) as client: response = await client.create_session(user_id="ada")``

    ``url``: ``amqp://user:password@host:port/vhost?heartbeat=10`` or ``amqps://…``; for a cluster the URLs of
    all nodes, separated by commas, tried in this order. ``name`` becomes part of the reply queue's name.
    ``prefix`` is the workers' setting of that name. ``reply="queue"`` is a durable reply queue that survives
    a lost connection; ``"direct"`` is RabbitMQ's direct reply-to, which needs no queue and no right to
    declare one, and loses what is sent while the connection is away (the call then asks again).
    """

    def __init__(
        self,
        url: str,
        *,
        name: str = "client",
        prefix: str = "session",
        reply: Literal["queue", "direct"] = "queue",
    ) -> None:
        for field, text in (("name", name), ("prefix", prefix)):
            if not re.fullmatch(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,63}", text):
                raise ValueError(f"{field}: must be 1 to 64 letters, digits, dots, underscores or hyphens")
        if reply not in {"queue", "direct"}:
            raise ValueError('reply: must be "queue" or "direct"')
        self._urls = _parse(url, name)
        self._names = Names(prefix)
        queue = f"{self._names.replies}.{name}.{uuid4().hex[:12]}"
        self._reply_queue = queue if reply == "queue" else None
        self._calls: dict[str, Call] = {}
        self._link: Link | None = None
        self._linked = asyncio.Event()
        self._links_opened = 0
        self._trouble: str | None = None
        """Why there is no link."""
        self._keeper: asyncio.Task[None] | None = None
        self._closed = False

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def open(self) -> None:
        """Connect; ``async with`` does it.

        Raises:
            ConnectionFailed: no broker could be used; a sentence without password.
        """
        if self._keeper is not None or self._closed:
            raise ClientClosed("a client is opened once; make a new one")
        try:
            link = await self._open_link()
        except LinkLostError as error:
            raise ConnectionFailed(str(error)) from error
        self._keeper = asyncio.create_task(self._keep_linked(link), name="client-keeper")

    async def close(self) -> None:
        """End waiting calls with ClientClosed, delete the reply queue, disconnect. Bounded in time."""
        self._closed = True
        for call in self._calls.values():
            call.interrupt()
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait({self._keeper})

    async def create_session(
        self,
        *,
        user_id: str,
        casefile_id: str | None = None,
        title: str | None = None,
        timeout: float = 30.0,
        request_id: UUID | str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> CreateSessionResponse:
        """Have a session created; the response returned is ``completed``.

        ``timeout`` in seconds, at most a day; the call ends then, whatever happens. Give ``request_id`` (a
        random UUID) to be able to ask again, from anywhere, without creating a second session.

        Raises:
            ValueError: an argument breaks its rule; nothing was sent.
            RequestFailed, RequestTimedOut, RequestNotRouted, ReplyInvalid, ClientClosed: ``client.errors``.
        """
        fields: dict[str, Any] = {
            "user_id": user_id,
            "payload": {"casefile_id": casefile_id, "title": title},
            "metadata": dict(metadata or {}),
        }
        if request_id is not None:
            fields["request_id"] = request_id
        try:
            request = CreateSessionRequest.model_validate(fields)
        except ValidationError as error:
            raise ValueError(problems(error)) from None
        return await self.request(request, timeout=timeout)

    async def request(self, request: CreateSessionRequest, *, timeout: float = 30.0) -> CreateSessionResponse:
        """Like ``create_session``, with a request made by the caller."""
        if not 0 < timeout <= MAX_TIMEOUT:
            raise ValueError(f"timeout: must be more than 0 and at most {MAX_TIMEOUT:.0f} seconds")
        call = Call(request, timeout)
        self._calls[call.correlation_id] = call
        try:
            await self._ask(call)
        finally:
            del self._calls[call.correlation_id]
        return call.response()

    async def _ask(self, call: Call) -> None:
        """Try until there is a reply."""
        request_id = call.request.request_id
        while call.reply is None:
            if self._closed or self._keeper is None or self._keeper.done():
                raise ClientClosed(f"the client is not open; the outcome of request {request_id} is unknown")
            if call.is_overdue:
                raise RequestTimedOut(request_id, call.timeout, call.trouble)
            await self._try(call)

    async def _try(self, call: Call) -> None:
        """Send once and wait: for the reply, the end of the try's time, or the loss of the link."""
        link: Link | None = None
        try:
            async with call.one_try():
                while (link := self._link) is None:
                    await self._linked.wait()
                call.limit()
                call.trouble = await self._send(call, link)
                call.limit(PAUSE_SECONDS if call.trouble else None)
                await call.wait_for_reply()
        except TimeoutError:
            call.trouble = self._trouble if link is None else (await link.check() or call.trouble)

    async def _send(self, call: Call, link: Link) -> str | None:
        """Returns when the broker has taken the request (None), or why it has not this time."""
        try:
            await link.publish(call.body, call.properties(link.reply_to))
        except NotAcceptedError as error:
            return str(error)
        except NotRoutedError as error:
            if not call.accepted:
                raise RequestNotRouted(call.request.request_id, str(error)) from error
            return str(error)
        except LinkLostError as error:
            self._drop(link, str(error))
            return str(error)
        call.accepted = True
        return None

    def _on_reply(self, message: DeliveredMessage) -> None:
        correlation_id = message.header.properties.correlation_id
        call = self._calls.get(correlation_id or "")
        if call is None or not call.take(message.body):
            log.debug("reply dropped, nobody waits for it: correlation id %s", correlation_id)

    async def _open_link(self) -> Link:
        """Try each broker once.

        Raises:
            LinkLostError: none could be used; the message says of each why.
        """
        reasons = []
        for url in self._urls:
            self._links_opened += 1
            try:
                return await Link.open(
                    url,
                    names=self._names,
                    reply_queue=self._reply_queue,
                    on_reply=self._on_reply,
                    priority=self._links_opened,
                )
            except LinkLostError as error:
                vhost = url.path.removeprefix("/") or "/"
                reasons.append(f"cannot use the broker {url.host}:{url.port}, vhost {vhost}: {error}")
        raise LinkLostError("; ".join(reasons))

    async def _keep_linked(self, link: Link) -> None:
        """Have a link at all times, until cancelled."""
        with suppress(LinkLostError):
            await self._serve(link)
        while True:
            async for attempt in AsyncRetrying(
                retry=retry_if_exception_type(LinkLostError),
                wait=wait_random_exponential(multiplier=0.1, max=5),
            ):
                with attempt:
                    await self._serve(await self._reopen_link())

    async def _reopen_link(self) -> Link:
        try:
            return await self._open_link()
        except LinkLostError as error:
            self._trouble = str(error)
            raise

    async def _serve(self, link: Link) -> None:
        """Let the calls use the link until it is lost.

        Raises:
            LinkLostError: it had not lived long enough to be called healthy.
        """
        opened_at = asyncio.get_running_loop().time()
        try:
            self._link = link
            self._linked.set()
            reason = await asyncio.shield(link.lost)
        except asyncio.CancelledError:
            await link.close(delete_reply_queue=True)
            raise
        log.warning("connection lost, connecting again: %s", reason)
        self._drop(link, reason)
        await link.close()
        if asyncio.get_running_loop().time() - opened_at < HEALTHY_SECONDS:
            raise LinkLostError(reason)

    def _drop(self, link: Link, reason: str) -> None:
        """Take the link away from the calls; each sends its request again over the next one."""
        link.fail(reason)
        if self._link is not link:
            return
        self._link, self._trouble = None, reason
        self._linked.clear()
        for call in self._calls.values():
            call.interrupt()


def _parse(urls: str, name: str) -> tuple[URL, ...]:
    """The brokers' addresses; a message about them never quotes them, for they hold passwords."""
    parsed = []
    for text in filter(None, map(str.strip, urls.split(","))):
        try:
            url = URL(text)
        except ValueError:
            url = URL()
        if url.scheme not in {"amqp", "amqps"} or not url.host:
            raise ValueError("url: write amqp://user:password@host:port/vhost, or amqps://…")
        if url.explicit_port is None:
            url = url.with_port(5671 if url.scheme == "amqps" else 5672)
        parsed.append(url.with_query({"heartbeat": HEARTBEAT, "name": f"session-client {name}", **url.query}))
    if not parsed:
        raise ValueError("url: give at least one amqp:// address")
    return tuple(parsed)
