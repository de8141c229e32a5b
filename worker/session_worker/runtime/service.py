"""The worker: built from settings, kept linked to the broker, shut down in order."""

from __future__ import annotations

import asyncio
import os
import random
import secrets
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from session_contracts.amqp import Names
from session_worker.broker import backoff
from session_worker.broker.link import Link
from session_worker.broker.marker import Owner
from session_worker.broker.topology import Topology, TopologyError
from session_worker.ledger import open_ledger, open_pruner, prune
from session_worker.ledger.protocol import LedgerError, Opened
from session_worker.messages.errors import LinkLostError, UnroutableError
from session_worker.operations import loading
from session_worker.requests.flow import Flow
from session_worker.requests.outcomes import Busy
from session_worker.requests.parse import RequestParser
from session_worker.requests.request import identify
from session_worker.requests.response import ResponseBuilder
from session_worker.requests.settle import Settler
from session_worker.requests.slots import HandlerThreads
from session_worker.requests.turns import Turns
from session_worker.runtime.health import STARTING, TOLD_TO_STOP, Report
from session_worker.runtime.stopping import StartError
from session_worker.telemetry import log as telemetry_log
from session_worker.telemetry import trace
from session_worker.telemetry.events import (
    ConsumingPaused,
    ConsumingResumed,
    DeliveryFailed,
    Draining,
    GivingBack,
    LinkFailed,
    LinkLost,
    TracesNotTaken,
    WorkerStopped,
    WorkerUp,
    emitter,
)
from session_worker.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    import tenacity

    from session_worker.messages.delivery import Delivery
    from session_worker.messages.message import Message
    from session_worker.settings import Settings
    from session_worker.telemetry.traces import Traces

START_SECONDS = 10.0
"""How long the broker may take to answer when the worker starts. Later on it is waited for without end."""
BOOT_SECONDS = 60.0
"""The same for a broker that is there and not ready."""
HEALTHY_SECONDS = 5.0
"""A link that lived so long is replaced at once; after shorter-lived ones there is a pause that grows. Each
loss takes the broker a step nearer to giving up what this worker has in hand."""
PAUSE_SECONDS = 2.0
"""How long a shutdown waits for the broker to say that no more deliveries come."""
NO_THREAD = "calls of attempts that have ended still run in all handlers' threads"
RELEASE_SECONDS = 5.0
"""What giving back may take after the grace."""


class Service:
    """One worker. ``up`` is called whenever it has begun to consume."""

    def __init__(
        self, settings: Settings, stop: asyncio.Event, up: Callable[[], None] = lambda: None
    ) -> None:
        self._settings = settings
        self._stop = stop
        self._up = up
        self._names = Names(settings.prefix)
        self._topology = Topology.of(self._names, settings.retry_delays)
        self.worker_id = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
        self._metrics = Metrics(
            inflight=lambda: len(self._serving),
            broker_connected=lambda: self._link is not None,
            consumer_active=lambda: self._link is not None and self._link.consuming,
        )
        self._traces = self._start_traces() if settings.traces else None
        self._begin = self._traces.begin if self._traces else trace.begin
        self._emit = emitter(
            telemetry_log.listeners(),
            self._metrics.listeners,
            self._traces.listeners if self._traces else {},
        )
        self._ledger = open_ledger(
            settings.ledger_url.get_secret_value(),
            worker_id=self.worker_id,
            holder_timeout=settings.holder_timeout,
            migrate=settings.migrate,
            emit=self._emit,
        )
        self._loop = asyncio.get_running_loop()
        self._loop.set_default_executor(HandlerThreads(settings.concurrency))
        self._flow = Flow(
            ledger=self._ledger,
            handler=loading.load(settings.handler),
            parser=RequestParser(
                self._names, max_body_bytes=settings.max_body_bytes, reply_to_allow=settings.reply_to_allow
            ),
            responses=ResponseBuilder(self.worker_id),
            settings=settings,
            emit=self._emit,
        )
        self._settler = Settler(
            self._publish,
            self._ledger,
            self._names,
            worker_id=self.worker_id,
            slowest_retry=settings.retry_delays[-1],
            emit=self._emit,
        )
        self._opened = Opened("", "", "")
        self._link: Link | None = None
        self._no_link = self._no_ledger = STARTING
        self._started = False
        self._serving: set[asyncio.Task[None]] = set()
        self._turns = Turns()
        self._gate_changed = asyncio.Event()
        self._flow.slots.changed = self._gate_changed.set
        self._drained = False

    async def run(self, *, patient: bool = False) -> None:
        """Work until ``stop`` is set, then finish what runs. ``patient``: the broker is waited for without
        end from the start.

        Raises:
            StartError: the worker could not start.
        """
        try:
            self._opened = await self._ledger.open()
        except LedgerError as error:
            raise StartError(str(error)) from error
        self._no_ledger = ""
        self._ledger.availability.watch(self._on_ledger)
        url = self._settings.ledger_url.get_secret_value()
        try:
            async with prune.in_background(lambda: open_pruner(url), self._settings.retention, self._emit):
                link = await self._connect(first=not patient)
                lost_early = 0
                while link is not None:
                    began = self._loop.time()
                    await self._stay_linked(link)
                    lost_early = 0 if self._loop.time() - began > HEALTHY_SECONDS else lost_early + 1
                    await self._rest(backoff.link_delay(lost_early, random.random()))  # noqa: S311
                    link = await self._connect()
                await self._drain()
        finally:
            await self._ledger.close()
            if self._traces is not None:
                await self._traces.close()
        self._emit(WorkerStopped())

    async def _rest(self, seconds: float) -> None:
        """Wait, no longer than until ``stop`` is set."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stop.wait(), seconds)

    def _start_traces(self) -> Traces | None:
        """Before the handler is loaded, which may make spans of its own."""
        try:
            from session_worker.telemetry import traces
        except ImportError as error:
            raise StartError(
                "traces: OpenTelemetry is not installed; install session-worker[otel], or leave traces off"
            ) from error
        except ValueError as error:  # the SDK reads some variables when it is imported
            raise StartError(f"traces: {error}") from error
        try:
            return traces.start(self._settings, self._names, self.worker_id, self._on_traces_not_taken)
        except (ValueError, RuntimeError) as error:  # RuntimeError: the SDK cannot load a part
            raise StartError(f"traces: {error}") from error

    def report(self) -> Report:
        """How the worker is at this moment."""
        ledger = self._ledger.availability
        stuck = self._settler.stuck
        return Report(
            pid=os.getpid(),
            worker_id=self.worker_id,
            started=self._started,
            checks={
                "broker": self._no_link if self._link is None else "",
                "consumer": self._why_not_consuming(),
                "entrance": self._link.entrance if self._link is not None else "",
                "ledger": self._no_ledger or ledger.reason,
                "copies": f"the broker does not take {stuck} of them" if stuck else "",
                "replies": self._link.trouble if self._link is not None else "",
                "shutdown": TOLD_TO_STOP if self._stop.is_set() else "",
            },
            metrics=self._metrics.snapshot(),
        )

    def _why_not_consuming(self) -> str:
        if self._link is None:
            return self._no_link
        if self._link.consuming:
            return ""
        if not self._ledger.availability.up:
            return "paused: the ledger is away"
        if self._link.blocked:
            return "paused: the broker has an alarm"
        if self._flow.slots.exhausted:
            return f"paused: {NO_THREAD}"
        return "paused" if self._has_room else "paused: what came before the pause still runs"

    # ------------------------------------------------------------------------------ the link

    async def _connect(self, *, first: bool = False) -> Link | None:
        """A new link, or None when it is time to stop.

        At the start the broker may be a little late, but what cannot be right is said at once. Later on
        everything is waited for.
        """

        def hopeless(state: tenacity.RetryCallState) -> bool:
            error = state.outcome.exception() if state.outcome else None
            permanent = isinstance(error, TopologyError) or getattr(error, "permanent", False)
            patience = BOOT_SECONDS if getattr(error, "booting", False) else START_SECONDS
            tried_until = (state.seconds_since_start or 0) + state.upcoming_sleep
            return first and (permanent or tried_until > patience)

        trying = backoff.until_stopped(self._stop, (LinkLostError, TopologyError), self._on_no_link, hopeless)
        try:
            return await self._unless_stopped(trying(self._build_link))
        except (LinkLostError, TopologyError) as error:
            if self._stop.is_set():
                return None
            raise StartError(f"{error}{self._way_out(error)}") from error

    def _way_out(self, error: Exception) -> str:
        """Advice for a user who has no broker and named none."""
        if getattr(error, "permanent", True) or "amqp_url" in self._settings.model_fields_set:
            return ""
        return "; without a broker, `session-worker dev` runs a worker with one of its own"

    async def _build_link(self) -> Link:
        """A link that consumes. It is ours before the first delivery comes, whose reply goes out by it."""
        ours = Owner(self._opened.identity, self._opened.name)
        link = await Link.build(self._settings, self._topology, self._emit, ours)
        self._link = link
        try:
            # What is delivered while the ledger is away would count as lost with every link that is.
            consuming = self._ledger.availability.up and self._has_room
            await link.subscribe(self._names, self._settings, self._on_delivery, consuming=consuming)
        except BaseException:
            await self._unlink(link)
            raise
        return link

    async def _unlink(self, link: Link) -> None:
        self._link = None
        await link.close()

    async def _unless_stopped(self, connecting: Coroutine[Any, Any, Link]) -> Link | None:
        """What ``connecting`` gives, or None as soon as ``stop`` is set."""
        trying = asyncio.ensure_future(connecting)
        stopping = asyncio.ensure_future(self._stop.wait())
        try:
            await asyncio.wait({trying, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if not self._stop.is_set():
                return await trying
            trying.cancel()
            await asyncio.wait({trying})
            if not trying.cancelled() and trying.exception() is None:
                await self._unlink(trying.result())
            return None
        finally:
            stopping.cancel()

    async def _stay_linked(self, link: Link) -> None:
        """Serve until the link is lost or it is time to stop."""
        link.watch_blocked(self._gate_changed.set)
        self._started = True
        self._up()
        opened = self._opened
        self._emit(WorkerUp(self._names.work, self._settings.concurrency, opened.name, opened.holds))
        lost = {
            asyncio.create_task(link.lost(), name="link watcher"),
            gate := asyncio.create_task(self._keep_gate(link), name="consuming gate"),
        }
        tasks = {*lost, asyncio.create_task(self._stop.wait(), name="stop watcher")}
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            reasons = [task.result() for task in lost if task.done()]
            if reasons and not self._stop.is_set():
                self._no_link = f"the connection was lost: {reasons[0]}"
                self._emit(LinkLost(reasons[0], len(self._serving)))
            else:
                # A broker that is silent takes no more time than this from what runs.
                self._gate_changed.set()
                await asyncio.wait({gate}, timeout=PAUSE_SECONDS)
                await self._drain()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            await self._unlink(link)

    @property
    def _has_room(self) -> bool:
        """Whether to begin to consume: a new consumer gets a whole prefetch, however much of the last one's
        is still here."""
        return len(self._serving) < self._settings.concurrency and not self._flow.slots.exhausted

    async def _keep_gate(self, link: Link) -> str:
        """Consume only while the ledger answers, the broker takes what we publish, handlers have threads, and
        we are not to stop.

        Returns, with the reason, when the link does not follow any more, or is not to consume again.
        """
        self._gate_changed.set()
        while True:
            await self._gate_changed.wait()
            self._gate_changed.clear()
            stopping = self._stop.is_set()
            exhausted = self._flow.slots.exhausted
            wanted = self._ledger.availability.up and not link.blocked and not exhausted and not stopping
            if wanted and not link.consuming and not self._has_room:
                continue
            if wanted != link.consuming:
                if not stopping:
                    self._log_gate(link, wanted=wanted)
                try:
                    await (link.resume() if wanted else link.pause())
                except LinkLostError as lost:
                    return f"consuming could not be {'resumed' if wanted else 'paused'}: {lost}"
            if stopping:
                return "the worker is to stop"
            if exhausted:
                self._flow.slots.turn_away()

    def _log_gate(self, link: Link, *, wanted: bool) -> None:
        ledger = "up" if self._ledger.availability.up else self._ledger.availability.reason
        broker = "blocked" if link.blocked else "up"
        threads = NO_THREAD if self._flow.slots.exhausted else "free"
        state = (ledger, broker, threads)
        self._emit(ConsumingResumed(*state) if wanted else ConsumingPaused(*state))

    def _on_no_link(self, state: tenacity.RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        if self._started or str(error) != self._no_link:  # at the start each reason is said once
            self._emit(LinkFailed(str(error), round(state.upcoming_sleep, 2)))
        self._no_link = str(error)

    def _on_traces_not_taken(self, reason: str) -> None:
        self._emit(TracesNotTaken(reason))

    def _on_ledger(self, _up: bool) -> None:
        self._gate_changed.set()

    async def _publish(self, message: Message) -> None:
        link = self._link
        if link is None:
            raise LinkLostError("the connection was lost")
        try:
            await link.publish(message)
        except UnroutableError as error:
            ours = self._names.is_ours(message.queue)
            if not (self._settings.declare and ours):
                raise
            reason = f"queue {message.queue} is gone; it is declared again with a new link"
            link.lose(reason)
            raise LinkLostError(reason) from error

    # ------------------------------------------------------------------------------ deliveries

    def _on_delivery(self, delivery: Delivery) -> None:
        task = self._loop.create_task(self._serve(delivery), name="delivery")
        self._serving.add(task)
        task.add_done_callback(self._on_served)

    def _on_served(self, task: asyncio.Task[None]) -> None:
        self._serving.discard(task)
        if self._link is not None and not self._link.consuming:
            self._gate_changed.set()

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

    async def _drain(self) -> None:
        """Let finish what runs, for the grace; then give back the rest. No deliveries come any more.

        Once: what could not be given back then waits for a ledger that is away.
        """
        if not self._serving or self._drained:
            return
        self._drained = True
        self._emit(Draining(len(self._serving), self._settings.shutdown_grace))
        await asyncio.wait(self._serving, timeout=self._settings.shutdown_grace)
        self._flow.stopping = True
        for task in tuple(self._serving):
            task.cancel()
        if self._serving:
            self._emit(GivingBack(len(self._serving)))
            await asyncio.wait(self._serving, timeout=RELEASE_SECONDS)
