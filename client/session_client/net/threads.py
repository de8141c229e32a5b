"""Threads of our own for what blocks.

asyncio's pool is left to the handlers: they may fill it for minutes, and a process that exits waits for it.
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
    """Return what ``call`` returns, which runs in a new thread. An exit does not wait for that thread."""
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
