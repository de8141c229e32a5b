"""Reaching hosts: each address of a name is tried, and one that does not answer holds up the others only for
a moment (as in RFC 8305)."""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, Self, TypeVar

from session_client.net.threads import in_own_thread

if TYPE_CHECKING:
    from collections.abc import Coroutine, Mapping

K = TypeVar("K")

HEAD_START_SECONDS = 0.25
"""How long a name is looked up, or an address is tried, alone before the next one is tried beside it."""


class Address(NamedTuple):
    """What ``socket`` needs to connect."""

    family: int
    place: tuple[Any, ...]


async def look_up(host: str, port: int) -> list[Address]:
    """Return the addresses of a host, looked up in a thread of our own. Raises OSError."""
    found = await in_own_thread(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
    return [Address(family, place) for family, _, _, _, place in found]


class Dialing(Generic[K]):
    """Connects to the addresses of several hosts, in the order of ``lookups``.

    All names are looked up at once. ``failures`` says what was not found or did not answer, and why.
    """

    def __init__(
        self, lookups: Mapping[K, Coroutine[Any, Any, list[Address]]], *, connect_seconds: float
    ) -> None:
        self.failures: list[tuple[K, Exception]] = []
        self._seconds = connect_seconds
        self._waiting: deque[tuple[K, Address | asyncio.Task[list[Address]]]] = deque(
            (key, asyncio.create_task(lookup, name="look up")) for key, lookup in lookups.items()
        )
        self._trying: dict[asyncio.Task[Any], tuple[K, Address | None]] = {}
        self._skipped: set[K] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in (*self._trying, *(each for _, each in self._waiting if isinstance(each, asyncio.Task))):
            _abandon(task)

    def skip(self, key: K) -> None:
        """Try no further address of this host."""
        self._skipped.add(key)

    async def next(self) -> tuple[K, socket.socket] | None:
        """Connect to the next address that answers; None when no address is left."""
        while self._waiting or self._trying:
            if self._waiting:
                key, each = self._waiting.popleft()
                if isinstance(each, asyncio.Task):
                    self._trying[each] = key, None
                elif key not in self._skipped:
                    connecting = asyncio.create_task(_connect(each, self._seconds), name="dial")
                    self._trying[connecting] = key, each
            pause = HEAD_START_SECONDS if self._waiting else None
            if self._trying:
                await asyncio.wait(self._trying, timeout=pause, return_when=asyncio.FIRST_COMPLETED)
            for task in [task for task in self._trying if task.done()]:
                key, address = self._trying.pop(task)
                try:
                    found = task.result()
                except (OSError, RuntimeError, ValueError) as error:  # RuntimeError: no thread can be started
                    self.failures.append((key, error))
                    continue
                if address is None:
                    self._waiting.extendleft((key, address) for address in reversed(found))
                else:
                    self._put_back()
                    return key, found
        return None

    def _put_back(self) -> None:
        """Hang up on the addresses that are being tried; a server would not wait until their turn comes."""
        for task, (key, address) in reversed(list(self._trying.items())):
            if address is not None:
                del self._trying[task]
                _abandon(task)
                self._waiting.appendleft((key, address))


async def _connect(address: Address, seconds: float) -> socket.socket:
    connected = socket.socket(address.family, socket.SOCK_STREAM)
    try:
        connected.setblocking(False)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        async with asyncio.timeout(seconds):
            await asyncio.get_running_loop().sock_connect(connected, address.place)
    except BaseException:
        connected.close()
        raise
    return connected


def _abandon(task: asyncio.Task[Any]) -> None:
    task.cancel()
    task.add_done_callback(_hang_up)


def _hang_up(task: asyncio.Task[Any]) -> None:
    if not task.cancelled() and task.exception() is None and isinstance(task.result(), socket.socket):
        task.result().close()
