"""Takes deliveries in: serves each, consumes only while it can, and sees to what still runs at the end."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from session_client.net.errors import LinkLostError
from session_worker.requests.outcomes import Busy
from session_worker.requests.parse import identify
from session_worker.requests.turns import Turns
from session_worker.telemetry import trace
from session_worker.telemetry.events import (
    ConsumingPaused,
    ConsumingResumed,
    DeliveryFailed,
    Draining,
    HandingBack,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from session_worker.broker.link import Link
    from session_worker.ledger.availability import Availability
    from session_worker.messages.delivery import Delivery
    from session_worker.requests.flow import Flow
    from session_worker.requests.settle import Settler
    from session_worker.settings import Settings
    from session_worker.telemetry.events import Emit

NO_THREAD = "calls of attempts that have ended still run in all handlers' threads"
HAND_BACK_SECONDS = 5.0
"""What handing back may take after the grace."""


class Intake:
    """The deliveries of one worker; ``serving`` are those in hand. ``begin`` begins the trace of each."""

    def __init__(
        self,
        flow: Flow,
        settler: Settler,
        ledger: Availability,
        settings: Settings,
        emit: Emit,
        stop: asyncio.Event,
        begin: Callable[[Delivery], trace.Trace],
    ) -> None:
        self._flow = flow
        self._settler = settler
        self._ledger = ledger
        self._settings = settings
        self._emit = emit
        self._stop = stop
        self._begin = begin
        self._loop = asyncio.get_running_loop()
        self._turns = Turns()
        self._link: Link | None = None
        self._changed = asyncio.Event()
        self.serving: set[asyncio.Task[None]] = set()
        ledger.watch(lambda _: self.recheck())
        flow.slots.changed = self.recheck

    def take(self, delivery: Delivery) -> None:
        """Serve a delivery, in a task of its own."""
        task = self._loop.create_task(self._serve(delivery), name="delivery")
        self.serving.add(task)
        task.add_done_callback(self._on_served)

    def _on_served(self, task: asyncio.Task[None]) -> None:
        self.serving.discard(task)
        if self._link is not None and not self._link.consuming:
            self.recheck()

    async def _serve(self, delivery: Delivery) -> None:
        following = trace.NO_TRACE
        try:
            following = self._begin(delivery)
            request = await self._flow.parse(delivery)
            async with self._turns.take(request):
                outcome = await self._flow.decide(request)
                await self._settler.settle(delivery, outcome)
        except Exception as error:  # noqa: BLE001
            # Ours to fix. Until then the message goes round slowly, and the worker lives.
            request_id = identify(delivery)
            self._emit(DeliveryFailed(request_id, 0, error))
            await self._settler.settle(delivery, Busy(request_id, self._settings.retry_delays[-1], 0))
        finally:
            following.end()

    # ---- the gate: whether to consume

    def recheck(self) -> None:
        """Have ``keep_gate`` look again whether to consume."""
        self._changed.set()

    async def keep_gate(self, link: Link) -> str:
        """Consume only while the ledger answers, the broker takes what we publish, handlers have threads, and
        we are not to stop.

        Returns, with the reason, when the link does not follow any more, or is not to consume again.
        """
        self._link = link
        self.recheck()
        while True:
            await self._changed.wait()
            self._changed.clear()
            stopping = self._stop.is_set()
            wanted = not stopping and not self._obstacle(link)
            if wanted and not link.consuming and not self._has_room:
                continue
            if wanted != link.consuming:
                if not stopping:
                    self._tell_gate(link, wanted=wanted)
                try:
                    await (link.resume() if wanted else link.pause())
                except LinkLostError as lost:
                    return f"consuming could not be {'resumed' if wanted else 'paused'}: {lost}"
            if stopping:
                return "the worker is to stop"
            if self._flow.slots.exhausted:
                self._flow.slots.turn_away()

    @property
    def may_begin(self) -> bool:
        """Whether a new link may consume at once."""
        return self._ledger.up and self._has_room

    def why_paused(self, link: Link) -> str:
        """Why the link does not consume; "" if it does."""
        if link.consuming:
            return ""
        reason = self._obstacle(link) or ("" if self._has_room else "what came before the pause still runs")
        return f"paused: {reason}" if reason else "paused"

    def _obstacle(self, link: Link) -> str:
        """What keeps us from handling what comes; "" if nothing does."""
        if not self._ledger.up:
            return "the ledger is away"
        if link.blocked:
            return "the broker has an alarm"
        return NO_THREAD if self._flow.slots.exhausted else ""

    @property
    def _has_room(self) -> bool:
        """Whether to begin to consume: a new consumer gets a whole prefetch, however much of the last one's
        is still here."""
        return len(self.serving) < self._settings.concurrency and not self._flow.slots.exhausted

    def _tell_gate(self, link: Link, *, wanted: bool) -> None:
        told = ConsumingResumed if wanted else ConsumingPaused
        self._emit(
            told(
                "up" if self._ledger.up else self._ledger.reason,
                "blocked" if link.blocked else "up",
                NO_THREAD if self._flow.slots.exhausted else "free",
            )
        )

    # ---- the end, when no more deliveries come

    async def drain(self) -> None:
        """Let what runs finish, for the grace."""
        if self.serving:
            self._emit(Draining(len(self.serving), self._settings.shutdown_grace))
            await asyncio.wait(self.serving, timeout=self._settings.shutdown_grace)

    async def hand_back(self) -> None:
        """Cancel what still runs, so that another worker gets it. What waits for a ledger that is away is
        left to the broker after ``HAND_BACK_SECONDS``."""
        self._flow.stopping = True
        if self.serving:
            for task in self.serving:
                task.cancel()
            self._emit(HandingBack(len(self.serving)))
            await asyncio.wait(self.serving, timeout=HAND_BACK_SECONDS)
