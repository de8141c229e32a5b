"""How time passes in a test: from one thing that is due to the next, as soon as nothing runs any more."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from session_worker.testing.broker import MemoryBroker
    from session_worker.testing.clock import Clock

log = logging.getLogger("session_worker.testing")
LOOKS = 20
"""How often to look within ``hang_after``. A debugger that halts everything uses up one look, not all."""


class Passing:
    """Moves the clock for whoever waits. ``running`` are the deliveries in hand; a handler that still runs
    after ``hang_after`` real seconds is taken for one that hangs."""

    def __init__(
        self,
        clock: Clock,
        broker: MemoryBroker,
        running: Callable[[], set[asyncio.Task[None]]],
        hang_after: float,
    ) -> None:
        self._clock = clock
        self._broker = broker
        self._running = running
        self._hang_after = hang_after
        self._wanted: list[datetime] = []
        self._turn = asyncio.Lock()

    async def quiet(self) -> None:
        """Wait until nothing runs any more, or what runs is taken to hang."""
        await asyncio.sleep(0)  # for tasks that were made just now
        for _ in range(LOOKS):
            pause = self._hang_after / LOOKS
            if running := self._running():
                await asyncio.wait(running, timeout=pause)
            elif self._broker.busy:  # another worker is about to take it
                await asyncio.sleep(pause)
            else:
                return

    async def until(self, moment: datetime, awaited: asyncio.Future[Any] | None = None) -> None:
        """Let time pass until ``moment``, or until what is ``awaited`` is there."""
        self._wanted.append(moment)
        awaited = awaited or asyncio.get_running_loop().create_future()
        moving = asyncio.create_task(self._move_until(moment, awaited), name="time passes")
        try:
            await asyncio.wait({moving, awaited}, return_when=asyncio.FIRST_COMPLETED)
            if moving.done():
                moving.result()
        finally:
            self._wanted.remove(moment)
            moving.cancel()
            await asyncio.wait({moving})

    async def _move_until(self, moment: datetime, awaited: asyncio.Future[Any]) -> None:
        while True:
            async with self._turn:
                await self.quiet()
                if awaited.done() or self._clock.now() >= moment:
                    return
                self._move()

    def _move(self) -> None:
        if self._running():
            log.warning(
                "handlers are taken to hang: they still run after %g s, and time passes all the same; "
                "if they only take long, give TestWorker a larger hang_after",
                self._hang_after,
            )
        moments = (*self._wanted, self._broker.next_due, self._clock.next_timer)
        self._clock.move_to(min(moment for moment in moments if moment is not None))
        self._broker.deliver_due()
