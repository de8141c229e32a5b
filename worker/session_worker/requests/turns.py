"""One delivery at a time: for each request, and among the suspects. Both within this process."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import asynccontextmanager, nullcontext
from typing import TYPE_CHECKING

from session_worker.requests.request import Refusal, Request

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from uuid import UUID


class Turns:
    """Deliveries of one request take turns, in the order in which they came.

    After a lost connection the broker delivers again what this process still runs. The new delivery waits
    here until the old one is settled, and then finds the outcome in the ledger: no second run, no attempt
    spent.
    """

    def __init__(self) -> None:
        self._waiting: dict[UUID, deque[asyncio.Future[None]]] = {}

    def take(self, request: Request | Refusal) -> Turn | nullcontext[None]:
        """Return the block in which it is the request's turn. A refusal claims nothing and waits for none."""
        return nullcontext() if isinstance(request, Refusal) else Turn(self._waiting, request.request_id)


class Turn:
    """The block in which it is a delivery's turn."""

    __slots__ = ("_request_id", "_waiting")

    def __init__(self, waiting: dict[UUID, deque[asyncio.Future[None]]], request_id: UUID) -> None:
        self._waiting = waiting
        self._request_id = request_id

    async def __aenter__(self) -> None:
        queue = self._waiting.get(self._request_id)
        if queue is None:
            self._waiting[self._request_id] = deque()
            return
        turn = asyncio.get_running_loop().create_future()
        queue.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            # A turn that was never given stays in the queue: whoever passes the turn on skips it.
            if not turn.cancelled():
                self._pass_on()
            raise

    async def __aexit__(self, *exc_info: object) -> None:
        self._pass_on()

    def _pass_on(self) -> None:
        queue = self._waiting[self._request_id]
        while queue:
            turn = queue.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        del self._waiting[self._request_id]


class OneAtATime:
    """Gives turns to one task at a time, in the order in which they came. At most ``places`` tasks are here,
    and none waits for longer than ``seconds``."""

    def __init__(self, places: int, seconds: float) -> None:
        self._free = places
        self._seconds = seconds
        self._turn = asyncio.Lock()

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[bool]:
        """Give True when it is the caller's turn, False when there is no place or the wait was too long."""
        if not self._free:
            yield False
            return
        self._free -= 1
        try:
            ours = await self._wait()
            try:
                yield ours
            finally:
                if ours:
                    self._turn.release()
        finally:
            self._free += 1

    async def _wait(self) -> bool:
        try:
            async with asyncio.timeout(self._seconds):
                return await self._turn.acquire()
        except TimeoutError:
            return False
