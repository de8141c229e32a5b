"""Keeps a client linked: has one link at a time, and builds the next when it is lost."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import TYPE_CHECKING

from tenacity import AsyncRetrying, wait_random_exponential
from yarl import URL

from session_client.broken import LinkLostError
from session_client.link import OPEN_SECONDS, Broker, Link
from session_client.net import tls
from session_client.net.dial import Place, UnreachedError, first_to_answer, look_up
from session_client.net.trouble import unreachable
from session_client.net.urls import broker_urls

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiormq.abc import DeliveredMessage
    from tenacity import RetryCallState

    from session_contracts import Names

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
        """The link to use; waits while there is none, but only so many seconds, and not when stopped."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._linked.wait()
        return self._link

    async def _open(self) -> Link:
        """Try each address of each broker once.

        Raises:
            LinkLostError: none could be used; the message says of each why.
        """
        reasons: dict[str, None] = {}
        places: list[Place[Broker]] = []
        for found in await asyncio.gather(*map(_look_up, self._urls)):
            if isinstance(found, str):
                reasons[found] = None
            else:
                places += found
        while places:
            try:
                place, connected = await first_to_answer(places, OPEN_SECONDS)
            except UnreachedError as error:
                reasons |= {_reason(place.of.url, _words(cause)): None for place, cause in error.failures}
                break
            self.links_tried += 1
            try:
                return await Link.open(
                    place.of,
                    connected,
                    names=self._names,
                    reply_queue=self._reply_queue,
                    on_reply=self._on_reply,
                    priority=self.links_tried,
                )
            except LinkLostError as error:
                reasons[_reason(place.of.url, str(error))] = None
            places.remove(place)
        self.trouble = "; ".join(reasons)
        raise LinkLostError(self.trouble)

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
        """Keep the keeper running whatever happens, and log each unexpected error. Before the first link,
        also log why there is none: nobody else does."""
        error = attempt.outcome.exception() if attempt.outcome else None
        if isinstance(error, LinkLostError):
            if not self._was_linked and attempt.attempt_number == 1:
                log.warning("%s; trying again", error)
        else:
            self.trouble = f"{type(error).__name__} while connecting"
            log.error("cannot connect, trying again: %s", self.trouble, exc_info=error)

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
        self._link, self.trouble = None, reason
        self._linked.clear()
        await link.close()
        if asyncio.get_running_loop().time() - opened_at < HEALTHY_SECONDS:
            raise LinkLostError(reason)


async def _look_up(url: URL) -> list[Place[Broker]] | str:
    """Return the addresses of the broker, or why it cannot be connected to."""
    try:
        broker = Broker(url, await tls.context_for(url))
        async with asyncio.timeout(OPEN_SECONDS):
            return await look_up(broker, url.host or "", url.port or 0)
    except tls.UnusableError as error:
        return _reason(url, str(error))
    except (OSError, RuntimeError) as error:  # RuntimeError: no thread can be started
        return _reason(url, _words(error))


def _words(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer within {OPEN_SECONDS:g} s"
    return unreachable(error, "this broker")


def _reason(url: URL, why: str) -> str:
    vhost = url.path.removeprefix("/") or "/"
    return f"cannot use the broker {url.host}:{url.port}, vhost {vhost}: {why}"


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
