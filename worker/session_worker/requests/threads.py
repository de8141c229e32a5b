"""The threads in which handlers call what blocks."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from session_worker.requests.turns import current_slot

if TYPE_CHECKING:
    from collections.abc import Callable

    from session_worker.requests.turns import Slot, Slots

P = ParamSpec("P")
T = TypeVar("T")


class HandlerThreads(ThreadPoolExecutor):
    """asyncio's default pool in a worker, with a thread for each of the ``slots`` of its operations.

    So that they take no slot's thread away, a handler's further calls at the same time go to another pool,
    which its operation has for itself, with as many threads as slots. Calls outside of all slots have one
    too.
    """

    def __init__(self, slots: int) -> None:
        super().__init__(slots, "handler")
        self._slots = slots
        self._beside: dict[Slots | None, ThreadPoolExecutor] = {}

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        slot = current_slot.get()
        if slot is None or not slot.held or (slot.job is not None and not slot.job.done()):
            return self._beside_of(slot).submit(fn, *args, **kwargs)
        job = super().submit(fn, *args, **kwargs)
        slot.job = job
        return job

    def _beside_of(self, slot: Slot | None) -> ThreadPoolExecutor:
        slots = None if slot is None else slot.slots
        pool = self._beside.get(slots)
        if pool is None:
            count = self._slots if slots is None else slots.count
            pool = self._beside[slots] = ThreadPoolExecutor(count, "handler, beside")
        return pool

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: ARG002
        """Begin no more calls, and do not wait for those that run, which may take any time."""
        for pool in self._beside.values():
            pool.shutdown(wait=False, cancel_futures=True)
        super().shutdown(wait=False, cancel_futures=True)
