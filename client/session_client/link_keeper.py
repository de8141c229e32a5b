"""Keeps a client connected: has one link at a time, and builds the next one when it is lost."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import TYPE_CHECKING

from tenacity import AsyncRetrying, wait_random_exponential
from yarl import URL

from session_client.net.brokers import NoBrokerError, first_to_open
from session_client.net.diagnosis import InvalidValueError
from session_client.net.errors import LinkLostError
from session_client.net.urls import HEARTBEAT_SECONDS, broker_urls

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable
    from ssl import SSLContext

    from tenacity import RetryCallState

    from session_client.link import Link
    from session_client.net.brokers import Broker

log = logging.getLogger(__name__)

OPEN_SECONDS = 5.0
"""Time to connect to one address; to log in there; and to declare the reply queue and consume from it."""
HEALTHY_SECONDS = 5.0
"""A link that lived so long is replaced at once, a shorter-lived one after a pause that grows."""


class LinkKeeper:
    """``new_link`` makes one that is not open yet, on a socket that is connected to one of ``urls``."""

    def __init__(
        self,
        urls: tuple[URL, ...],
        new_link: Callable[[Broker, SSLContext | None, socket.socket], Link],
    ) -> None:
        self.obstacle: str | None = None
        """Why there is no link."""
        self.links_tried = 0
        self._urls = urls
        self._new_link = new_link
        self._link: Link | None = None
        self._linked = asyncio.Event()
        self._was_linked = False
        self._task: asyncio.Task[None] | None = None

    async def start(self, *, wait: bool = True) -> None:
        """Build the first link; without ``wait``, in the background.

        Raises:
            LinkLostError: no broker could be used.
        """
        link = await self._open() if wait else None
        if link is not None:
            self._use(link)
        self._task = asyncio.create_task(self._keep_linked(link), name="client-keeper")

    async def stop(self) -> None:
        """Disconnect and delete the reply queue. Bounded in time."""
        if self._task is not None:
            self._task.cancel()
            self._linked.set()  # nobody need wait for the next link
            await asyncio.wait({self._task})
        if self._link is not None:  # closed here, for a task may be cancelled before it begins
            await self._link.close(delete_reply_queue=True)

    @property
    def is_running(self) -> bool:
        return self._task is not None and not self._task.done()

    async def link(self, seconds: float) -> Link | None:
        """Return the link to use, or None if there is none within so many seconds, or when stopped."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._linked.wait()
        return self._link

    async def _open(self) -> Link:
        """Try each address of each broker once.

        Raises:
            LinkLostError: none could be used; the message says of each why.
        """
        try:
            return await first_to_open(self._urls, self._open_on, url_name="the URL", seconds=OPEN_SECONDS)
        except NoBrokerError as error:
            self.obstacle = str(error)
            raise

    async def _open_on(self, broker: Broker, context: SSLContext | None, connected: socket.socket) -> Link:
        self.links_tried += 1
        link = self._new_link(broker, context, connected)
        await link.open(self.links_tried)
        return link

    async def _keep_linked(self, link: Link | None) -> None:
        """Have a link at all times, until cancelled."""
        while True:
            async for attempt in AsyncRetrying(
                wait=wait_random_exponential(multiplier=0.1, max=5), before_sleep=self._note
            ):
                with attempt:
                    first, link = link, None
                    await self._serve(first or await self._open())

    def _note(self, attempt: RetryCallState) -> None:
        """Log each unexpected error; none ends the keeper. Before the first link, also log why there is none:
        nobody else does."""
        error = attempt.outcome.exception() if attempt.outcome else None
        if isinstance(error, LinkLostError):
            if not self._was_linked and attempt.attempt_number == 1:
                log.warning("%s; trying again", error)
        else:
            self.obstacle = f"{type(error).__name__} while connecting"
            log.error("cannot connect, trying again: %s", self.obstacle, exc_info=error)

    def _use(self, link: Link) -> None:
        self._link = link
        self._was_linked = True
        self._linked.set()

    async def _serve(self, link: Link) -> None:
        """Let the calls use the link until it is lost.

        Raises:
            LinkLostError: it had not lived long enough to be called healthy.
        """
        self._use(link)
        opened_at = asyncio.get_running_loop().time()
        reason = await link.watch()
        level = logging.INFO if link.lost_by_a_request else logging.WARNING
        log.log(level, "connection lost, connecting again: %s", reason)
        self._link, self.obstacle = None, reason
        self._linked.clear()
        await link.close()
        if asyncio.get_running_loop().time() - opened_at < HEALTHY_SECONDS:
            raise LinkLostError(reason)


def parse_urls(text: str, connection_name: str) -> tuple[URL, ...]:
    """Return the brokers' URLs in ``text``, where commas separate them.

    Raises:
        InvalidValueError: one of them is wrong.
    """
    try:
        urls = [URL(url) for url in broker_urls(text)]
    except InvalidValueError as error:
        raise InvalidValueError(f"url: {error.what}", error.fix) from None
    defaults = {"heartbeat": str(HEARTBEAT_SECONDS), "name": connection_name}
    return tuple(url.with_query({**defaults, **url.query}) for url in urls)
