"""Keeps a worker linked to the broker: builds a link, stays with it until it is lost, builds the next."""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from session_client.net.close_reasons import Kind
from session_client.net.errors import LinkLostError
from session_contracts.amqp import Names
from session_worker.broker import backoff
from session_worker.broker.connection import side_by_side
from session_worker.broker.link import Link
from session_worker.broker.marker import Owner
from session_worker.broker.topology import TopologyError
from session_worker.messages.errors import UnroutableError
from session_worker.runtime.health import STARTING
from session_worker.runtime.intake import in_hand
from session_worker.runtime.served import topology_of
from session_worker.runtime.stopping import StartError
from session_worker.telemetry.events import LinkFailed, LinkLost, WorkerUp

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence, Set

    import tenacity

    from session_worker.ledger.protocol import Opened
    from session_worker.messages.message import Message
    from session_worker.runtime.intake import Intake
    from session_worker.runtime.served import Served
    from session_worker.settings import Settings
    from session_worker.telemetry.events import Emit

START_SECONDS = 10.0
"""How long the broker may take to answer when the worker starts. Later on it is waited for without end."""
BOOT_SECONDS = 60.0
"""The same for a broker that is there and not ready."""
HEALTHY_SECONDS = 5.0
"""A link that lived so long is replaced at once; after shorter-lived ones there is a pause that grows. Each
loss takes the broker a step nearer to giving up what this worker has in hand."""
PAUSE_SECONDS = 2.0
"""How long a shutdown waits for the broker to say that no more deliveries come."""


class LinkKeeper:
    """The worker's link to the broker: ``link``, or None because of ``no_link``.

    ``started`` says whether the worker has consumed before. ``up`` is called whenever it has begun to.
    """

    def __init__(
        self,
        settings: Settings,
        served: Sequence[Served],
        emit: Emit,
        stop: asyncio.Event,
        up: Callable[[], None],
    ) -> None:
        self._settings = settings
        self._names = Names(settings.prefix)
        self._topology = topology_of(served)
        self._emit = emit
        self._stop = stop
        self._up = up
        self._watchers: set[asyncio.Task[str]] = set()
        self.link: Link | None = None
        self.no_link = STARTING
        self.started = False

    async def run(self, intakes: Sequence[Intake], opened: Opened, *, restarted: bool) -> None:
        """Have deliveries come to ``intakes`` until it is time to stop. A link that stands then is left open,
        for the replies of what still runs.

        Raises:
            StartError: there is no first link, and it is no use to wait for it (never if ``restarted``).
        """
        first, lost_early = not restarted, 0
        queues = ", ".join(intake.served.names.work for intake in intakes)
        concurrency = sum(intake.served.limits.concurrency for intake in intakes)
        while link := await self._connect(partial(self._build, intakes, opened), first=first):
            first, began = False, time.monotonic()
            self._emit(WorkerUp(queues, concurrency, opened.name, opened.holds))
            reason = await self._stay(link, intakes)
            if self._stop.is_set():
                return
            self.no_link = f"the connection was lost: {reason}"
            self._emit(LinkLost(reason, len(in_hand(intakes))))
            await self.close()
            lost_early = 0 if time.monotonic() - began > HEALTHY_SECONDS else lost_early + 1
            await self._rest(backoff.link_delay(lost_early, random.random()))  # noqa: S311

    async def pause(self, intakes: Sequence[Intake]) -> None:
        """When it is time to stop: wait until no more deliveries come. A broker that is silent takes no more
        than ``PAUSE_SECONDS`` from what runs."""
        for intake in intakes:
            intake.recheck()
        if self._watchers:
            await asyncio.wait(self._watchers, timeout=PAUSE_SECONDS, return_when=asyncio.FIRST_COMPLETED)

    async def close(self) -> None:
        """Close the link if there is one; bounded in time."""
        link, self.link = self.link, None
        for watcher in self._watchers:
            watcher.cancel()
        if self._watchers:
            await asyncio.wait(self._watchers)
            self._watchers = set()
        if link is not None:
            await link.close()

    async def publish(self, message: Message) -> None:
        """Publish by the link, and wait for the broker's confirm.

        Raises:
            LinkLostError: there is no link, it was lost meanwhile, or one of our queues is gone.
            UnroutableError: the queue does not exist.
        """
        link = self.link
        if link is None:
            raise LinkLostError("the connection was lost")
        try:
            await link.publisher.publish(message)
        except UnroutableError as error:
            if not (self._settings.declare and self._names.is_ours(message.queue)):
                raise
            reason = f"queue {message.queue} is gone; it is declared again with a new link"
            link.lose(reason)
            raise LinkLostError(reason) from error

    async def _connect(self, build: Callable[[], Awaitable[Link]], *, first: bool) -> Link | None:
        """A new link, or None when it is time to stop.

        At the start the broker may be a little late, but what cannot be right is said at once. Later on
        everything is waited for.
        """

        def hopeless(state: tenacity.RetryCallState) -> bool:
            error = state.outcome.exception() if state.outcome else None
            permanent = isinstance(error, TopologyError) or getattr(error, "permanent", False)
            longest = BOOT_SECONDS if getattr(error, "kind", None) is Kind.UNAVAILABLE else START_SECONDS
            tried_until = (state.seconds_since_start or 0) + state.upcoming_sleep
            return first and (permanent or tried_until > longest)

        trying = backoff.until_stopped(self._stop, (LinkLostError, TopologyError), self._on_no_link, hopeless)
        connecting: asyncio.Future[Link] = asyncio.ensure_future(trying(build))
        await self._until_stopped({connecting})
        if self._stop.is_set():
            connecting.cancel()
            await asyncio.gather(connecting, return_exceptions=True)
            await self.close()
            return None
        try:
            return await connecting
        except (LinkLostError, TopologyError) as error:
            fixes = filter(None, (error.fix, self._way_out(error)))
            raise StartError(error.what, "; ".join(fixes)) from error

    def _on_no_link(self, state: tenacity.RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        if self.started or str(error) != self.no_link:  # at the start each reason is said once
            self._emit(LinkFailed(str(error), round(state.upcoming_sleep, 2)))
        self.no_link = str(error)

    def _way_out(self, error: Exception) -> str:
        """Advice for a user who has no broker and named none."""
        if getattr(error, "permanent", True) or "amqp_url" in self._settings.model_fields_set:
            return ""
        return "without a broker, `session-worker dev` runs a worker with one of its own"

    async def _build(self, intakes: Sequence[Intake], opened: Opened) -> Link:
        """A link that consumes. It is ours before the first delivery comes, whose reply goes out by it."""
        ours = Owner(opened.identity, opened.name)
        self.link = link = await Link.build(self._settings, self._topology, self._emit, ours)
        try:
            limit = self._settings.max_body_bytes
            await side_by_side(intake.subscribe(link, limit) for intake in intakes)
            # What is delivered while the ledger is away would count as lost with every link that is.
            await link.begin([intake.subscription for intake in intakes if intake.may_begin])
        except BaseException:
            await self.close()
            raise
        return link

    async def _stay(self, link: Link, intakes: Sequence[Intake]) -> str:
        """Serve until the link is lost or it is time to stop; the reason of the loss."""
        self.started = True
        self._up()
        for intake in intakes:
            link.watch_blocked(intake.recheck)
        self._watchers = {
            asyncio.create_task(link.lost(), name="link watcher"),
            asyncio.create_task(self._keep_gates(link, intakes), name="consuming gates"),
        }
        await self._until_stopped(self._watchers)
        return next((watcher.result() for watcher in self._watchers if watcher.done()), "")

    async def _keep_gates(self, link: Link, intakes: Sequence[Intake]) -> str:
        """Keep the gate of each operation until all are closed because it is time to stop, or until one could
        not be moved; the reason of that."""
        moving = {asyncio.create_task(intake.keep_gate(link), name="consuming gate") for intake in intakes}
        try:
            while moving:
                done, moving = await asyncio.wait(moving, return_when=asyncio.FIRST_COMPLETED)
                if reason := next(filter(None, (gate.result() for gate in done)), ""):
                    return reason
            return "the worker is to stop"
        finally:
            for gate in moving:
                gate.cancel()
            if moving:
                await asyncio.wait(moving)

    async def _until_stopped(self, tasks: Set[asyncio.Future[Any]]) -> None:
        """Wait for the first of ``tasks``, no longer than until it is time to stop."""
        stopping = asyncio.create_task(self._stop.wait(), name="stop watcher")
        try:
            await asyncio.wait({*tasks, stopping}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()

    async def _rest(self, seconds: float) -> None:
        """Wait, no longer than until it is time to stop."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stop.wait(), seconds)
