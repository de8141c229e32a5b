"""Keep an interrupt an interrupt, whatever it breaks on its way."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Coroutine

T = TypeVar("T")


def listen() -> None:
    """Have SIGTERM and SIGHUP interrupt like Ctrl-C, unless they are ignored."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda *_: signal.raise_signal(signal.SIGINT))
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a script starts its background jobs like that
        signal.signal(signal.SIGINT, signal.default_int_handler)


def run(runner: asyncio.Runner, work: Coroutine[Any, Any, T]) -> T:
    """Return the result of ``work``; raise KeyboardInterrupt for an interrupt at any moment.

    While the runner sets itself up, it takes an interrupt for a cancellation.
    """
    try:
        return runner.run(interruptible(work))
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None
    finally:
        work.close()


async def interruptible(work: Coroutine[Any, Any, T]) -> T:
    """Return the result of ``work``. When cancelled, wait until it has cleaned up, then raise CancelledError.

    A connection that is being opened turns a cancellation into another error, which would hide the interrupt.
    """
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait({task})
    except asyncio.CancelledError:
        task.cancel()
        await asyncio.wait({task})
        if not task.cancelled():
            task.exception()
        raise
    return task.result()
