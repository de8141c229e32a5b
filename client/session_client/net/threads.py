"""Threads of our own for calls that block.

asyncio's pool is left to the handlers, who may fill it for minutes; a process that exits waits for it.
"""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, ParamSpec, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

P = ParamSpec("P")
T = TypeVar("T")


async def in_own_thread(call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run ``call`` in a new thread and return its result. An exit of the process does not wait for it."""
    result: Future[T] = Future()
    result.set_running_or_notify_cancel()

    def run() -> None:
        try:
            returned = call(*args, **kwargs)
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is raised where it is awaited
            result.set_exception(error)
        else:
            result.set_result(returned)

    threading.Thread(target=run, name=getattr(call, "__name__", "blocking call"), daemon=True).start()
    return await asyncio.wrap_future(result)
