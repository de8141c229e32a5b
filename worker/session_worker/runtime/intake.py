"""Takes deliveries in: serves each, consumes only while it can, and sees to what still runs at the end."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from session_client.net.errors import LinkLostError
from session_worker.broker.link import Subscription
from session_worker.requests import attempt
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
    from collections.abc import Callable, Iterable, Sequence

    from session_worker.broker.link import Link
    from session_worker.ledger.availability import Availability
    from session_worker.messages.delivery import Delivery
    from session_worker.requests.flow import Flow
    from session_worker.requests.settle import Settler
    from session_worker.runtime.served import Served
    from session_worker.telemetry.events import Emit

NO_THREAD = "calls of attempts that have ended still run in all handlers' threads"
HAND_BACK_SECONDS = 5.0
"""What handing back may take after the grace."""


class Intake:
    """The deliveries of one operation; ``serving`` are those in hand. ``begin`` begins the trace of each."""

    def __init__(
        self,
        served: Served,
        flow: Flow,
        settler: Settler,
        ledger: Availability,
        emit: Emit,
        stop: asyncio.Event,
        begin: Callable[[Delivery], trace.Trace],
    ) -> None:
        self.served = served
        self.flow = flow
        self.settler = settler
        self._ledger = ledger
        self._emit = emit
        self._stop = stop
        self._begin = begin
        self._loop = asyncio.get_running_loop()
        self._turns = Turns()
        self.subscription = Subscription({})
        """By which they come, on the newest link."""
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
        if not self.subscription.consuming:
            self.recheck()

    async def _serve(self, delivery: Delivery) -> None:
        following = trace.NO_TRACE
        try:
            following = self._begin(delivery)
            request = await self.flow.parse(delivery)
            async with self._turns.take(request):
                outcome = await self.flow.decide(request)
                await self.settler.settle(delivery, outcome)
        except Exception as error:  # noqa: BLE001
            # Ours to fix. Until then the message goes round slowly, and the worker lives.
            request_id = identify(delivery)
            self._emit(DeliveryFailed(request_id, 0, error, self.served.name))
            await self.settler.settle(delivery, Busy(request_id, self.served.limits.retry_delays[-1], 0))
        finally:
            following.end()

    # ---- the gate: whether to consume

    async def subscribe(self, link: Link, max_body_bytes: int) -> None:
        """Prepare to consume by ``link``.

        Raises:
            LinkLostError: it cannot be prepared.
        """
        self.subscription = await link.subscribe(
            self.served.names,
            self.take,
            prefetch=self.served.limits.concurrency,
            max_body_bytes=max_body_bytes,
        )

    def recheck(self) -> None:
        """Have ``keep_gate`` look again whether to consume."""
        self._changed.set()

    async def keep_gate(self, link: Link) -> str:
        """Consume only while the ledger answers, the broker takes what we publish, handlers have threads, and
        we are not to stop.

        Returns when it is paused because we are to stop, or, with the reason, when the link does not follow
        any more.
        """
        subscription = self.subscription
        self.recheck()
        while True:
            await self._changed.wait()
            self._changed.clear()
            stopping = self._stop.is_set()
            wanted = not stopping and not self._obstacle(link)
            if wanted and not subscription.consuming and not self._has_room:
                continue
            if wanted != subscription.consuming:
                if not stopping:
                    self._tell_gate(link, wanted=wanted)
                try:
                    await (subscription.resume() if wanted else subscription.pause())
                except LinkLostError as lost:
                    return f"consuming could not be {'resumed' if wanted else 'paused'}: {lost}"
            if stopping:
                return ""
            if self.flow.slots.exhausted:
                self.flow.slots.turn_away()

    @property
    def may_begin(self) -> bool:
        """Whether to consume at once by a new link."""
        return self._ledger.up and self._has_room

    def why_paused(self, link: Link) -> str:
        """Why nothing is consumed; "" if it is."""
        if self.subscription.consuming:
            return ""
        reason = self._obstacle(link) or ("" if self._has_room else "what came before the pause still runs")
        return f"paused: {reason}" if reason else "paused"

    def _obstacle(self, link: Link) -> str:
        """What keeps us from handling what comes; "" if nothing does."""
        if not self._ledger.up:
            return "the ledger is away"
        if link.blocked:
            return "the broker has an alarm"
        return NO_THREAD if self.flow.slots.exhausted else ""

    @property
    def _has_room(self) -> bool:
        """Whether to begin to consume: a new consumer gets a whole prefetch, however much of the last one's
        is still here."""
        return len(self.serving) < self.served.limits.concurrency and not self.flow.slots.exhausted

    def _tell_gate(self, link: Link, *, wanted: bool) -> None:
        told = ConsumingResumed if wanted else ConsumingPaused
        self._emit(
            told(
                "up" if self._ledger.up else self._ledger.reason,
                "blocked" if link.blocked else "up",
                NO_THREAD if self.flow.slots.exhausted else "free",
                self.served.name,
            )
        )


def why_paused(intakes: Sequence[Intake], link: Link) -> str:
    """Name the operations of which nothing is consumed, with the reasons; "" if there are none."""
    reasons = {intake.served.name: intake.why_paused(link) for intake in intakes}
    if len({*reasons.values()}) == 1:
        return reasons.popitem()[1]
    return "; ".join(f"{name} {reason}" for name, reason in reasons.items() if reason)


# ---- the end, when no more deliveries come


def in_hand(intakes: Iterable[Intake]) -> set[asyncio.Task[None]]:
    return {task for intake in intakes for task in intake.serving}


async def drain(intakes: Sequence[Intake], grace: float, emit: Emit) -> None:
    """Let what runs finish, for the grace."""
    if serving := in_hand(intakes):
        emit(Draining(len(serving), grace))
        await asyncio.wait(serving, timeout=grace)


def handlers_run(intakes: Sequence[Intake]) -> bool:
    """Whether handlers still run, be it in tasks or in threads that have outlived their attempts."""
    names = {task.get_name() for task in asyncio.all_tasks()}
    return attempt.TASK in names or any(intake.flow.slots.kept for intake in intakes)


async def hand_back(intakes: Sequence[Intake], emit: Emit) -> None:
    """Cancel what still runs, so that another worker gets it. What waits for a ledger that is away is left to
    the broker after ``HAND_BACK_SECONDS``."""
    for intake in intakes:
        intake.flow.stopping = True
    if serving := in_hand(intakes):
        for task in serving:
            task.cancel()
        emit(HandingBack(len(serving)))
        await asyncio.wait(serving, timeout=HAND_BACK_SECONDS)
