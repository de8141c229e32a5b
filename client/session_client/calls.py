"""Many calls in flight over one connection and one reply consumer.

Until its deadline, a call sends its request again, with the same request id, whenever the link is lost, the
broker does not accept the request, or no reply comes in time. That is safe because one request id has one
outcome. The first try waits 5 s for the reply, the next one 10 s, then 20 s and so on: a worker that is
merely busy must not get ever more to do.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Any

from session_client.errors import ClientClosed, RequestNotRouted, RequestTimedOut
from session_client.link import Link
from session_client.link_keeper import LinkKeeper
from session_client.net.errors import LinkLostError
from session_client.publish_errors import NotAcceptedError, NotRoutedError, UnconfirmedError

if TYPE_CHECKING:
    from aio_pika.abc import AbstractIncomingMessage
    from yarl import URL

    from session_client.call import Call
    from session_contracts import Names

log = logging.getLogger(__name__)

RETRY_PAUSE_SECONDS = 0.5
"""Before a request that the broker did not accept is sent again."""


class Calls:
    """Replies go to ``reply_queue``, or by direct reply-to if that is None."""

    def __init__(self, urls: tuple[URL, ...], names: Names, reply_queue: str | None) -> None:
        self._keeper = LinkKeeper(
            urls, partial(Link, names=names, reply_queue=reply_queue, on_reply=self._on_reply)
        )
        self._waiting: dict[str, Call[Any, Any]] = {}
        self._stopped = False

    async def start(self, *, wait: bool) -> None:
        """Connect; without ``wait``, in the background.

        Raises:
            LinkLostError: no broker could be used.
        """
        await self._keeper.start(wait=wait)

    async def stop(self) -> None:
        """End waiting calls with ClientClosed and disconnect. Bounded in time."""
        self._stopped = True
        await self._keeper.stop()

    async def ask(self, call: Call[Any, Any]) -> None:
        """Try until the call has its reply.

        Raises:
            ClientClosed, RequestNotRouted, RequestTimedOut: it gets none.
        """
        self._waiting[call.correlation_id] = call
        try:
            await self._ask(call)
        finally:
            del self._waiting[call.correlation_id]

    async def _ask(self, call: Call[Any, Any]) -> None:
        request_id = call.request.request_id
        while not call.replied.done():
            if self._stopped or not self._keeper.is_running:
                raise ClientClosed(f"the client is not open; the outcome of request {request_id} is unknown")
            if call.is_overdue:
                raise RequestTimedOut(request_id, call.timeout, call.obstacle)
            await self._try(call)

    async def _try(self, call: Call[Any, Any]) -> None:
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

    async def _send(self, call: Call[Any, Any], link: Link) -> str | None:
        """Return None when the broker has taken the request, or else why it has not this time."""
        try:
            await link.publish(call.message(link.reply_to), call.operation.key, call.reply_wait)
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
        call = self._waiting.get(correlation_id or "")
        if call is None or not call.take(message.body):
            log.debug("reply dropped, nobody waits for it: correlation id %s", correlation_id)
