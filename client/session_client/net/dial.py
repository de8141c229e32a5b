"""Reaching hosts: each address of a name is tried, and one that does not answer holds up the others only for
a moment (as in RFC 8305)."""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from session_client.net.threads import in_own_thread

if TYPE_CHECKING:
    from collections.abc import Iterable

T = TypeVar("T")

HEAD_START_SECONDS = 0.25
"""How long an address is tried alone before the next one is tried beside it."""


class Place(NamedTuple, Generic[T]):
    """One address of ``of``, which is whatever the caller connects to."""

    of: T
    family: int
    address: tuple[Any, ...]


class UnreachedError(Exception):
    """None of the places answered; ``failures`` says of each why."""

    def __init__(self, failures: list[tuple[Place[Any], OSError]]) -> None:
        super().__init__(f"none of {len(failures)} addresses answered")
        self.failures = failures


async def look_up(of: T, host: str, port: int) -> list[Place[T]]:
    """Return the addresses of a host, looked up in a thread of our own. Raises OSError."""
    found = await in_own_thread(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
    return [Place(of, family, address) for family, _, _, _, address in found]


async def first_to_answer(places: Iterable[Place[T]], seconds: float) -> tuple[Place[T], socket.socket]:
    """Connect to the first of ``places`` that answers. Each may take so many seconds.

    Raises:
        UnreachedError: none did.
    """
    waiting = deque(places)
    trying: dict[asyncio.Task[socket.socket], Place[T]] = {}
    failures: list[tuple[Place[Any], OSError]] = []
    try:
        while waiting or trying:
            if waiting:
                place = waiting.popleft()
                trying[asyncio.create_task(_connect(place, seconds), name="dial")] = place
            pause = HEAD_START_SECONDS if waiting else None
            done, _ = await asyncio.wait(trying, timeout=pause, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                place = trying.pop(task)
                try:
                    return place, task.result()
                except OSError as error:
                    failures.append((place, error))
    finally:
        for task in trying:
            task.cancel()
            task.add_done_callback(_hang_up)
    raise UnreachedError(failures)


async def _connect(place: Place[Any], seconds: float) -> socket.socket:
    connected = socket.socket(place.family, socket.SOCK_STREAM)
    try:
        connected.setblocking(False)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        async with asyncio.timeout(seconds):
            await asyncio.get_running_loop().sock_connect(connected, place.address)
    except BaseException:
        connected.close()
        raise
    return connected


def _hang_up(task: asyncio.Task[socket.socket]) -> None:
    if not task.cancelled() and task.exception() is None:
        task.result().close()
