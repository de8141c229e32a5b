"""Ctrl-C stays Ctrl-C."""

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
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as for what a script begins in the background
        signal.signal(signal.SIGINT, signal.default_int_handler)


def run(runner: asyncio.Runner, work: Coroutine[Any, Any, T]) -> T:
    """The result of ``work``; an interrupt at any moment is a KeyboardInterrupt.

    While the runner sets itself up, there is one at which it takes an interrupt for a mere cancellation.
    """
    try:
        return runner.run(interruptible(work))
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None
    finally:
        work.close()


async def interruptible(work: Coroutine[Any, Any, T]) -> T:
    """The result of ``work``. When cancelled, wait until it has cleaned up, and then be cancelled.

    A connection that is just being made turns a cancellation into an error of its own, which would hide the
    interrupt.
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
