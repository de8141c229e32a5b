"""The requester: many calls in flight over one connection and one reply consumer.

Until its deadline, a call sends its request again, with the same request id, whenever the link is lost, the
broker does not accept the request, or no reply comes in time. That is safe because one request id has one
outcome. The first try waits 5 s for the reply, the next one 10 s, then 20 s and so on: a worker that is
merely busy must not get ever more to do.
"""

from __future__ import annotations

import asyncio
import logging
import re
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Self
from uuid import UUID, uuid4

from pydantic import ValidationError

from session_client.call import Call
from session_client.errors import ClientClosed, ConnectionFailed, RequestNotRouted, RequestTimedOut
from session_client.link import Link
from session_client.link_keeper import LinkKeeper, parse_urls
from session_client.net.errors import LinkLostError
from session_client.publish_errors import NotAcceptedError, NotRoutedError, UnconfirmedError
from session_contracts import CreateSessionRequest, Names, problems

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from aio_pika.abc import AbstractIncomingMessage

    from session_contracts import CreateSessionResponse

log = logging.getLogger(__name__)

RETRY_PAUSE_SECONDS = 0.5
"""Before a request that the broker did not accept is sent again."""
MAX_TIMEOUT = 86_400.0


class SessionClient:
    """Creates sessions by asking the workers over RabbitMQ.

    ``async with SessionClient(url) as client: response = await client.create_session(user_id="ada")``

    Args:
        url: ``amqp://user:password@host:port/vhost?heartbeat=10`` or ``amqps://…``. For a cluster, the URLs
            of all nodes, separated by commas. Nodes, and the addresses of each, are tried in order; one that
            does not answer holds up the next one only for a moment.
        name: becomes part of the reply queue's name.
        prefix: the workers' setting of that name.
        reply: ``"queue"`` makes a durable reply queue, which outlives a lost connection. ``"direct"`` uses
            RabbitMQ's direct reply-to: that needs no queue and no right to declare one, but replies sent
            while the connection is away are lost (the call then asks again).

    Raises:
        ValueError: an argument breaks its rule.
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
        names = Names(prefix)
        self._keeper = LinkKeeper(
            parse_urls(url, f"session-client {name}"),
            partial(
                Link,
                names=names,
                reply_queue=f"{names.replies}.{name}.{uuid4().hex[:12]}" if reply == "queue" else None,
                on_reply=self._on_reply,
            ),
        )
        self._calls: dict[str, Call] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._opened = False
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

    async def open(self, *, wait: bool = True) -> None:
        """Connect; ``async with`` does it.

        With ``wait=False``, return at once and connect in the background: an application can start while the
        broker is away. Its calls wait for the broker within their own ``timeout``.

        Raises:
            ConnectionFailed: no broker could be used; a sentence without password.
            ClientClosed: it was closed meanwhile, or opened before.
        """
        if self._opened:
            raise ClientClosed("a client is opened once; make a new one")
        self._opened = True
        self._loop = asyncio.get_running_loop()
        try:
            await self._keeper.start(wait=wait)
        except LinkLostError as error:
            raise ConnectionFailed(str(error)) from error
        if self._closed:
            await self._keeper.stop()
            raise ClientClosed("the client was closed while it connected")

    async def close(self) -> None:
        """End waiting calls with ClientClosed, delete the reply queue, disconnect. Bounded in time."""
        self._check_loop()
        self._opened = self._closed = True
        await self._keeper.stop()

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
        """Have a session created, and return the response, which is ``completed``.

        Args:
            timeout: seconds, at most a day, after which the call ends whatever happens.
            request_id: a random UUID of yours, with which you can ask again, from anywhere, without creating
                a second session.

        Raises:
            ValueError: an argument breaks its rule; nothing was sent.
            RequestFailed, RequestTimedOut, RequestNotRouted, ReplyInvalid, ClientClosed: ``errors.py``.
            RuntimeError: the client was opened in another event loop.
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
        self._check_loop()
        call = Call(request, timeout)
        self._calls[call.correlation_id] = call
        try:
            await self._ask(call)
        finally:
            del self._calls[call.correlation_id]
        return call.response()

    def _check_loop(self) -> None:
        if self._loop is not None and self._loop is not asyncio.get_running_loop():
            raise RuntimeError(
                "this client was opened in another event loop; call it there "
                "(asyncio.run_coroutine_threadsafe), or open one of its own here"
            )

    async def _ask(self, call: Call) -> None:
        """Try until there is a reply."""
        request_id = call.request.request_id
        while not call.replied.done():
            if self._closed or not self._keeper.is_running:
                raise ClientClosed(f"the client is not open; the outcome of request {request_id} is unknown")
            if call.is_overdue:
                raise RequestTimedOut(request_id, call.timeout, call.obstacle)
            await self._try(call)

    async def _try(self, call: Call) -> None:
        """Send once and wait: for the reply, the end of the try's time, or the loss of the link."""
        link = await self._keeper.link(call.left)
        if link is None:
            call.obstacle = self._keeper.obstacle
            return
        call.obstacle = await self._send(call, link)
        await link.wait_for(
            call.replied, min(RETRY_PAUSE_SECONDS, call.left) if call.obstacle else call.reply_wait
        )
        if not (call.obstacle or call.replied.done() or link.lost.done()):
            call.wait_longer()
            call.obstacle = await link.blocked()

    async def _send(self, call: Call, link: Link) -> str | None:
        """Return None when the broker has taken the request, or else why it has not this time."""
        try:
            await link.publish(call.message(link.reply_to), call.reply_wait)
        except UnconfirmedError as error:
            call.wait_longer()
            return str(error)
        except NotAcceptedError as error:
            return str(error)
        except NotRoutedError as error:
            if not call.accepted:
                raise RequestNotRouted(call.request.request_id, str(error)) from error
            return str(error)
        except LinkLostError as error:
            link.fail(str(error))
            return str(error)
        call.accepted = True
        return None

    def _on_reply(self, message: AbstractIncomingMessage) -> None:
        correlation_id = message.correlation_id
        call = self._calls.get(correlation_id or "")
        if call is None or not call.take(message.body):
            log.debug("reply dropped, nobody waits for it: correlation id %s", correlation_id)
