"""Whose turn it is in this process: how many requests run at a time, and which run one after the other."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import asynccontextmanager, nullcontext, suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from session_worker.requests.request import Refusal, Request

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from concurrent.futures import Future
    from uuid import UUID


Queue = deque["asyncio.Future[bool]"]


def _give(queue: Queue, answer: bool) -> bool:
    """Answer the first in the queue that still waits. Return whether there was one."""
    while queue:
        waiting = queue.popleft()
        if not waiting.done():  # else it was cancelled
            waiting.set_result(answer)
            return True
    return False


class Turns:
    """Deliveries of one request take turns, in the order in which they came.

    After a lost connection the broker delivers again what this process still runs. The new delivery waits
    here until the old one is settled, and then finds the outcome in the ledger: no second run, no attempt
    spent.
    """

    def __init__(self) -> None:
        self._waiting: dict[UUID, Queue] = {}

    def take(self, request: Request | Refusal) -> Turn | nullcontext[None]:
        """Return the block in which it is the request's turn. A refusal claims nothing and waits for none."""
        return nullcontext() if isinstance(request, Refusal) else Turn(self._waiting, request.request_id)


class Turn:
    """The block in which it is a delivery's turn."""

    __slots__ = ("_request_id", "_waiting")

    def __init__(self, waiting: dict[UUID, Queue], request_id: UUID) -> None:
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
            if not turn.cancelled():  # it was given meanwhile
                self._pass_on()
            raise

    async def __aexit__(self, *exc_info: object) -> None:
        self._pass_on()

    def _pass_on(self) -> None:
        if not _give(self._waiting[self._request_id], True):
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


class Slots:
    """How many requests run at the same time: ``count``, in the order in which they ask.

    A slot has a thread for what its handler calls in one. A thread cannot be cancelled: if one outlives its
    attempt, it keeps the slot until it ends, so that a request that gets a slot has a thread at once.
    ``kept`` counts those that are kept so; ``changed`` is called when ``exhausted`` may have changed.
    """

    def __init__(self, count: int) -> None:
        self.count = self._free = count
        self.kept = 0
        self._turning_away = False
        self._waiting: Queue = deque()
        self.changed: Callable[[], None] = lambda: None

    @property
    def exhausted(self) -> bool:
        """Whether threads that outlived their attempts keep every slot."""
        return self.kept == self.count

    def take(self) -> Slot:
        """Return the block that holds a slot. It gives True, or False when there is none (``turn_away``)."""
        return Slot(self)

    def turn_away(self) -> None:
        """Let no request wait for a slot until one of the threads that keep them has ended."""
        self._turning_away = self.exhausted
        while self._turning_away and _give(self._waiting, False):
            pass

    async def begin(self) -> bool:
        if self._free:
            self._free -= 1
            return True
        if self._turning_away:
            return False
        turn: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.result():
                self._pass_on()
            raise

    def end(self, job: Future[Any] | None) -> None:
        if job is None or job.done():
            self._pass_on()
            return
        loop = asyncio.get_running_loop()

        def ended(_: Future[Any]) -> None:
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(self._thread_ended)

        self.kept += 1
        job.add_done_callback(ended)
        self.changed()

    def _thread_ended(self) -> None:
        self.kept -= 1
        self._turning_away = False
        self._pass_on()
        self.changed()

    def _pass_on(self) -> None:
        if not _give(self._waiting, True):
            self._free += 1


class Slot:
    """One slot, held within a block. ``job`` is what the handler runs in the slot's thread."""

    __slots__ = ("held", "job", "slots")

    def __init__(self, slots: Slots) -> None:
        self.slots = slots
        self.held = False
        self.job: Future[Any] | None = None

    async def __aenter__(self) -> bool:
        self.held = await self.slots.begin()
        current_slot.set(self)
        return self.held

    async def __aexit__(self, *exc_info: object) -> None:
        if self.held:
            job, self.held, self.job = self.job, False, None
            self.slots.end(job)


current_slot: ContextVar[Slot | None] = ContextVar("slot", default=None)
"""The slot of the request that this task handles."""
