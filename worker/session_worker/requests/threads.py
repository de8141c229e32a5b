"""The threads in which handlers call what blocks."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from session_worker.requests.turns import current_slot

if TYPE_CHECKING:
    from collections.abc import Callable

P = ParamSpec("P")
T = TypeVar("T")


class HandlerThreads(ThreadPoolExecutor):
    """asyncio's default pool in a worker, with a thread for each slot.

    A handler's further calls at the same time, and calls outside of all slots, share a second pool of the
    same size. So they take no slot's thread away.
    """

    def __init__(self, slots: int) -> None:
        super().__init__(slots, "handler")
        self._beside = ThreadPoolExecutor(slots, "handler, beside")

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        slot = current_slot.get()
        if slot is None or not slot.held or (slot.job is not None and not slot.job.done()):
            return self._beside.submit(fn, *args, **kwargs)
        job = super().submit(fn, *args, **kwargs)
        slot.job = job
        return job

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: ARG002
        """Begin no more calls, and do not wait for those that run, which may take any time."""
        self._beside.shutdown(wait=False, cancel_futures=True)
        super().shutdown(wait=False, cancel_futures=True)
