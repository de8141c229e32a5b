"""Slots: how many requests run at the same time, each with a thread for what its handler calls in one.

A thread cannot be cancelled. If one outlives its attempt, it keeps the slot until it ends, so that a request
that gets a slot has a thread at once.
"""

from __future__ import annotations

import asyncio
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

P = ParamSpec("P")
T = TypeVar("T")


class Slots:
    """``count`` slots, given in the order in which they were asked for. ``changed`` is called when
    ``exhausted`` may have changed."""

    def __init__(self, count: int) -> None:
        self._count = self._free = count
        self._kept = 0
        self._turning_away = False
        self._waiting: deque[asyncio.Future[bool]] = deque()
        self.changed: Callable[[], None] = lambda: None

    @property
    def exhausted(self) -> bool:
        """Whether threads that outlived their attempts keep every slot."""
        return self._kept == self._count

    def take(self) -> Slot:
        """Return the block that holds a slot. It gives True, or False when there is none (``turn_away``)."""
        return Slot(self)

    def turn_away(self) -> None:
        """Let no request wait for a slot until one of the threads that keep them has ended."""
        self._turning_away = self.exhausted
        while self._turning_away and self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(False)

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

        self._kept += 1
        job.add_done_callback(ended)
        self.changed()

    def _thread_ended(self) -> None:
        self._kept -= 1
        self._turning_away = False
        self._pass_on()
        self.changed()

    def _pass_on(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(True)
                return
        self._free += 1


class Slot:
    """One slot, held within a block. ``job`` is what the handler runs in the slot's thread."""

    __slots__ = ("_slots", "held", "job")

    def __init__(self, slots: Slots) -> None:
        self._slots = slots
        self.held = False
        self.job: Future[Any] | None = None

    async def __aenter__(self) -> bool:
        self.held = await self._slots.begin()
        _current.set(self)
        return self.held

    async def __aexit__(self, *exc_info: object) -> None:
        if self.held:
            job, self.held, self.job = self.job, False, None
            self._slots.end(job)


_current: ContextVar[Slot | None] = ContextVar("slot", default=None)


class HandlerThreads(ThreadPoolExecutor):
    """asyncio's default pool in a worker, with a thread for each slot.

    A handler's further calls at the same time, and calls outside of all slots, share a second pool of the
    same size. So they take no slot's thread away.
    """

    def __init__(self, slots: int) -> None:
        super().__init__(slots, "handler")
        self._beside = ThreadPoolExecutor(slots, "handler, beside")

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        slot = _current.get()
        if slot is None or not slot.held or (slot.job is not None and not slot.job.done()):
            return self._beside.submit(fn, *args, **kwargs)
        job = super().submit(fn, *args, **kwargs)
        slot.job = job
        return job

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: ARG002
        """Begin no more calls, and do not wait for those that run, which may take any time."""
        self._beside.shutdown(wait=False, cancel_futures=True)
        super().shutdown(wait=False, cancel_futures=True)
