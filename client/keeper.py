"""Keeps a client linked: has one link at a time, and builds the next when it is lost."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import TYPE_CHECKING

from tenacity import AsyncRetrying, wait_random_exponential
from yarl import URL

from client.broken import LinkLostError
from client.link import Link
from contracts.urls import broker_urls

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiormq.abc import DeliveredMessage
    from tenacity import RetryCallState

    from contracts import Names

log = logging.getLogger(__name__)

HEARTBEAT = 10
"""Seconds between heartbeats, unless the URL says otherwise."""
HEALTHY_SECONDS = 5.0
"""A link that lived so long is replaced at once, a shorter-lived one after a pause that grows."""


class Keeper:
    """``on_reply`` is called for each reply, and must not block."""

    def __init__(
        self,
        urls: tuple[URL, ...],
        names: Names,
        reply_queue: str | None,
        *,
        on_reply: Callable[[DeliveredMessage], None],
    ) -> None:
        self.trouble: str | None = None
        """Why there is no link."""
        self.links_tried = 0
        self._urls = urls
        self._names = names
        self._reply_queue = reply_queue
        self._on_reply = on_reply
        self._link: Link | None = None
        self._linked = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Build the first link.

        Raises:
            LinkLostError: no broker could be used.
        """
        link = await self._open()
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
        """The link to use; waits while there is none, but only so many seconds, and not when stopped."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._linked.wait()
        return self._link

    async def _open(self) -> Link:
        """Try each broker once.

        Raises:
            LinkLostError: none could be used; the message says of each why.
        """
        reasons = []
        for url in self._urls:
            self.links_tried += 1
            try:
                return await Link.open(
                    url,
                    names=self._names,
                    reply_queue=self._reply_queue,
                    on_reply=self._on_reply,
                    priority=self.links_tried,
                )
            except LinkLostError as error:
                vhost = url.path.removeprefix("/") or "/"
                reasons.append(f"cannot use the broker {url.host}:{url.port}, vhost {vhost}: {error}")
        self.trouble = "; ".join(reasons)
        raise LinkLostError(self.trouble)

    async def _keep_linked(self, link: Link | None) -> None:
        """Have a link at all times, until cancelled."""
        while True:
            async for attempt in AsyncRetrying(
                wait=wait_random_exponential(multiplier=0.1, max=5), before_sleep=self._note_unexpected
            ):
                with attempt:
                    first, link = link, None
                    await self._serve(first or await self._open())

    def _note_unexpected(self, attempt: RetryCallState) -> None:
        """Let nothing end the keeper for good, and nothing that nobody thought of go unseen."""
        error = attempt.outcome.exception() if attempt.outcome else None
        if not isinstance(error, LinkLostError):
            self.trouble = f"{type(error).__name__} while connecting"
            log.error("cannot connect, trying again: %s", self.trouble, exc_info=error)

    def _use(self, link: Link) -> None:
        self._link = link
        self._linked.set()

    async def _serve(self, link: Link) -> None:
        """Let the calls use the link until it is lost.

        Raises:
            LinkLostError: it had not lived long enough to be called healthy.
        """
        self._use(link)
        opened_at = asyncio.get_running_loop().time()
        reason = await link.watch()
        log.warning("connection lost, connecting again: %s", reason)
        self._link, self.trouble = None, reason
        self._linked.clear()
        await link.close()
        if asyncio.get_running_loop().time() - opened_at < HEALTHY_SECONDS:
            raise LinkLostError(reason)


def parse_urls(text: str, connection_name: str) -> tuple[URL, ...]:
    """The brokers' addresses, separated by commas.

    Raises:
        ValueError: one of them is wrong; it is not quoted, for it may hold a password.
    """
    try:
        urls = [URL(url) for url in broker_urls(text)]
    except ValueError as error:
        raise ValueError(f"url: {error}") from None
    return tuple(
        url.with_port(url.explicit_port or (5671 if url.scheme == "amqps" else 5672)).with_query(
            {"heartbeat": HEARTBEAT, "name": connection_name, **url.query}
        )
        for url in urls
    )
