"""Waiting for something to become true, with a deadline. Nothing in the tests sleeps and hopes."""

from __future__ import annotations

import asyncio
import inspect
import time
from typing import TYPE_CHECKING, TypeVar, cast

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

T = TypeVar("T")


async def eventually(condition: Callable[[], T | Awaitable[T]], deadline: float = 15.0) -> T:
    """The first true value of `condition`, which may be a coroutine function, within `deadline` seconds.

    An assertion that fails inside counts as not yet true; the last one is raised when time is up.
    """
    end = time.monotonic() + deadline
    while True:
        failure: AssertionError | None = None
        try:
            value = condition()
            result = cast("T", await value if inspect.isawaitable(value) else value)
            if result:
                return result
        except AssertionError as error:
            failure = error
        if time.monotonic() > end:
            raise failure or AssertionError(f"not true within {deadline:g} s: {condition}")
        await asyncio.sleep(0.02)


def soon(condition: Callable[[], T], deadline: float = 15.0) -> T:
    """`eventually` for tests without an event loop."""
    end = time.monotonic() + deadline
    while not (result := condition()):
        if time.monotonic() > end:
            raise AssertionError(f"not true within {deadline:g} s: {condition}")
        time.sleep(0.02)
    return result
