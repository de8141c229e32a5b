"""The pauses and the end of an attempt, and the chance in what follows it: real ones, but in users' tests."""

from __future__ import annotations

import asyncio
import random
from contextvars import ContextVar
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable


class Cancellable(Protocol):
    def cancel(self) -> None: ...


class Timing:
    """As it is in a worker. ``session_worker.testing`` has another one, whose time can be moved on."""

    def call_later(self, seconds: float, call: Callable[[], None]) -> Cancellable:
        return asyncio.get_running_loop().call_later(seconds, call)

    async def pause(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def chance(self) -> float:
        """A number from 0 to below 1."""
        return random.random()  # noqa: S311


current_timing: ContextVar[Timing] = ContextVar("timing", default=Timing())  # noqa: B039 - it has no state
"""That of the delivery which this task serves."""
