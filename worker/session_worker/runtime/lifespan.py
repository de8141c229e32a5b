"""The lifespan of an app in one process: entered before the first delivery, left after the last one."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from session_client.net.failures import in_one_line
from session_worker.operations.errors import AppError
from session_worker.runtime.stopping import StartError
from session_worker.telemetry.events import LifespanFailed, LifespanNotLeft

if TYPE_CHECKING:
    from session_worker.operations.app import App
    from session_worker.telemetry.events import Emit

TASK = "lifespan"
LEAVE_SECONDS = 5.0
"""What leaving it may take."""
CANCEL_SECONDS = 1.0
"""What it may take to end when it is cancelled."""


class Lifespan:
    """An app's lifespan. If it ends before it is left, ``stop`` is set and ``broken`` says why.

    It has a task of its own: what one task has entered (a task group, a time limit) no other may leave.
    """

    def __init__(self, app: App[Any], stop: asyncio.Event, emit: Emit) -> None:
        self._app = app
        self._stop = stop
        self._emit = emit
        self._made: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._over = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.broken: StartError | None = None

    async def enter(self) -> Any:
        """Return the app's resources; None if it has none, or if it is time to stop before they are there.

        Raises:
            StartError: it failed.
        """
        if not self._app.has_lifespan:
            return None
        self._task = asyncio.create_task(self._live(), name=TASK)
        stopping = asyncio.create_task(self._stop.wait(), name="stop watcher")
        try:
            await asyncio.wait({self._made, stopping}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
        if self.broken is not None:
            raise self.broken
        return self._made.result() if self._made.done() else None

    async def leave(self, *, in_use: bool) -> None:
        """Close the resources, within a bounded time. Those that are ``in_use`` are left as they are."""
        if self._task is None or self._task.done():
            return
        if in_use:
            self._emit(LifespanNotLeft("handlers do not end"))
            return
        self._over.set()
        if self._made.done():
            await asyncio.wait({self._task}, timeout=LEAVE_SECONDS)
        if not self._task.done():
            if self._made.done():
                self._emit(LifespanNotLeft(f"it takes longer than {LEAVE_SECONDS:g} s"))
            self._task.cancel()
            await asyncio.wait({self._task}, timeout=CANCEL_SECONDS)

    async def _live(self) -> None:
        failure: BaseException | None = None
        try:
            async with self._app.lifespan() as resources:
                self._made.set_result(resources)
                await self._over.wait()
        except BaseException as error:  # noqa: BLE001 - sys.exit, and being cancelled, as well
            failure = error
        if not self._over.is_set():
            self.broken = _sentence(failure)
            self._stop.set()
        elif isinstance(failure, asyncio.CancelledError | None):
            return
        if not isinstance(failure, AppError):  # which says it all
            self._emit(LifespanFailed(failure))


def _sentence(failure: BaseException | None) -> StartError:
    if isinstance(failure, AppError):
        return StartError(failure.diagnosis)
    if failure is None:
        return StartError("the app's lifespan ended before the worker", "have it last until it is left")
    return StartError(f"the app's lifespan failed: {in_one_line(failure)}", "see its traceback in the log")
