"""A clock that goes as ever, and can be moved on."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from session_worker.requests.timing import Timing

if TYPE_CHECKING:
    from collections.abc import Callable


class Clock(Timing):
    """The time of a worker under test. Attempts are cut off by it; no pause precedes immediate retries."""

    def __init__(self) -> None:
        self._ahead = timedelta()
        self._timers: set[Timer] = set()

    def now(self) -> datetime:
        return datetime.now(UTC) + self._ahead

    def move_to(self, moment: datetime) -> None:
        """Move on to ``moment``, and end what should have ended by then."""
        self._ahead += max(moment - self.now(), timedelta())
        for timer in [timer for timer in self._timers if timer.due <= moment]:
            timer.fire()

    @property
    def next_timer(self) -> datetime | None:
        """When the first of the attempts that run is cut off."""
        return min((timer.due for timer in self._timers), default=None)

    def call_later(self, seconds: float, call: Callable[[], None]) -> Timer:
        return Timer(self._timers, self.now() + timedelta(seconds=seconds), seconds, call)

    async def pause(self, seconds: float) -> None:  # noqa: ARG002
        """Let the others go on, without waiting."""
        await asyncio.sleep(0)

    def chance(self) -> float:
        """Retries take the delays of the table, not the ones before."""
        return 0.0


class Timer:
    """Calls ``call`` once: when it is ``due`` by the clock, or ``seconds`` have really passed."""

    def __init__(self, timers: set[Timer], due: datetime, seconds: float, call: Callable[[], None]) -> None:
        self.due = due
        self._timers = timers
        self._call = call
        self._handle = asyncio.get_running_loop().call_later(seconds, self.fire)
        timers.add(self)

    def fire(self) -> None:
        self.cancel()
        self._call()

    def cancel(self) -> None:
        self._handle.cancel()
        self._timers.discard(self)
