"""``TestWorker``: an app at work, without broker and server, in the time of a test."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, closing
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar
from uuid import UUID, uuid4

from pydantic import BaseModel

from session_contracts.amqp import CONTENT_TYPE, Names
from session_worker.ledger.registration import Registration
from session_worker.messages.message import Message, Properties
from session_worker.operators.dead_letters.letter import DeadLetter
from session_worker.requests.timing import current_timing
from session_worker.runtime.assembly import intake_of
from session_worker.runtime.intake import hand_back, in_hand
from session_worker.runtime.served import served_by
from session_worker.settings import Settings
from session_worker.telemetry import trace
from session_worker.telemetry.events import emitter
from session_worker.testing.broker import MemoryBroker
from session_worker.testing.client import MemoryCalls, MemoryClient
from session_worker.testing.clock import Clock
from session_worker.testing.ledger import MemoryLedger, empty_database
from session_worker.testing.lifespan import in_own_task
from session_worker.testing.log import listeners
from session_worker.testing.passing import Passing
from session_worker.testing.sent import Sent

if TYPE_CHECKING:
    from datetime import datetime

    from session_client import SessionClient
    from session_contracts import BaseRequest, Operation
    from session_worker.ledger.reader import Entry
    from session_worker.messages.delivery import Delivery
    from session_worker.operations.app import App
    from session_worker.runtime.intake import Intake
    from session_worker.runtime.served import Served

P = TypeVar("P", bound=BaseModel)
R = TypeVar("R", bound=BaseModel)
T = TypeVar("T")

FROM_LIFESPAN: Any = object()


class TestWorker(Generic[T]):
    """A worker that serves ``app`` in this event loop, with a ledger and a broker in memory.

    ``async with TestWorker(app) as worker: response = await worker.client.call(EXTEND, …)``

    What it does with a request is what every worker does; only time is another: a call of its client does not
    wait, but lets time pass until its answer is there, retries included. ``send`` lets no time pass, and
    ``advance`` as much as you say.

    Args:
        resources: what handlers find in ``context.resources``. Without it, the app's lifespan is entered.
        hang_after: real seconds after which a handler that still runs is taken for one that hangs, and time
            passes all the same, until it is cut off.
        settings: settings of the worker, by their names: ``max_attempts=2``. Neither variables nor files
            are read.
    """

    __test__ = False  # for pytest, which would take it for a class of tests

    def __init__(
        self, app: App[T], *, resources: T = FROM_LIFESPAN, hang_after: float = 1.0, **settings: Any
    ) -> None:
        self._app = app
        self._resources = resources
        self._settings = _settings(settings)
        self._names = Names(self._settings.prefix)
        self._emit = emitter(listeners())
        self._clock = Clock()
        self._broker = MemoryBroker(self._clock)
        self._passing = Passing(self._clock, self._broker, self._running, hang_after)
        self._intakes: list[Intake] = []
        self._crashes = 0
        self._blocks = AsyncExitStack()
        self._calls = MemoryCalls(self._names, self._broker, self._clock, self._passing)
        self.client: SessionClient = MemoryClient(self._calls)
        """Its methods and errors are those of the real one; it is open as long as the worker."""

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as blocks:
            if self._resources is FROM_LIFESPAN:
                self._resources = await blocks.enter_async_context(in_own_task(self._app.lifespan()))
            self._database = blocks.enter_context(closing(empty_database()))
            await self._begin("test-worker")
            blocks.push_async_callback(self._end)
            await blocks.enter_async_context(self.client)
            self._blocks = blocks.pop_all()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._blocks.aclose()

    async def send(
        self, operation: Operation[P, R], body: bytes | BaseRequest[P], **properties: Any
    ) -> Sent[R]:
        """Publish a message to the queue of ``operation``, and return when the worker is done with it.

        ``properties``: ``headers``, ``correlation_id``, ``reply_to``, ``expiration`` (milliseconds, as text),
        ``message_id``, ``content_type``, ``content_encoding``, ``timestamp``, ``type``. Unless they say
        something else, it is JSON, and replied to on a queue of its own.

        Raises:
            LookupError: the app does not serve the operation.
        """
        reply_to = f"{self._names.replies}.sent.{uuid4().hex[:12]}"
        given = {"content_type": CONTENT_TYPE, "reply_to": reply_to, **properties}
        content = body if isinstance(body, bytes) else body.model_dump_json(by_alias=True).encode()
        replies = self._broker.replies[given["reply_to"] or self._names.replies]
        sent = Sent(operation, replies, len(replies))
        queue = self._names.of(operation.key).work
        if not self._broker.has(queue):
            raise LookupError(f"the app under test does not serve operation {operation.name}")
        await self._broker.publish(Message(queue, content, Properties(persistent=True, **given)))
        await self._passing.quiet()
        return sent

    async def crash(self) -> None:
        """End the worker as a SIGKILL would, and begin another one on the same ledger, broker and resources.

        What ran has left no outcome: its messages are delivered again.
        """
        self._ledger.cut_off()
        running = self._running()
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running)
        self._crashes += 1
        await self._begin(f"test-worker-{self._crashes + 1}")
        self._broker.deliver_again()

    async def advance(self, seconds: float) -> None:
        """Let time pass: what becomes due meanwhile happens, one after the other; nothing waits for it."""
        await self._passing.until(self._clock.now() + timedelta(seconds=seconds))

    @property
    def now(self) -> datetime:
        """The time in this test: it goes on as ever, and by what was advanced."""
        return self._clock.now()

    def entry(self, request_id: UUID | str) -> Entry | None:
        """What the ledger has of a request: its status, attempts, history and more. None: nothing."""
        return self._ledger.entry(UUID(str(request_id)))

    @property
    def dead_letters(self) -> list[DeadLetter]:
        """What was parked, the oldest first."""
        lots = {
            self._names.of(binding.operation.key).dead: binding.operation for binding in self._app.bindings
        }
        return [DeadLetter.of(lots[delivery.queue], delivery) for delivery in self._broker.parked]

    async def _begin(self, worker_id: str) -> None:
        self._ledger = MemoryLedger(self._database, Registration(worker_id, 15.0, 0.0), self._clock.now)
        await self._ledger.open()
        self._intakes.clear()
        for served in served_by(self._settings, self._app):
            self._serve(served, worker_id)

    def _serve(self, served: Served, worker_id: str) -> None:
        intake = intake_of(
            served,
            settings=self._settings,
            worker_id=worker_id,
            ledger=self._ledger,
            publish=self._broker.publish,
            emit=self._emit,
            stop=asyncio.Event(),
            begin=trace.begin,
        )
        if not served.binding.built_in:
            intake.flow.resources = self._resources

        def take(delivery: Delivery) -> None:
            reset = current_timing.set(self._clock)
            intake.take(delivery)
            current_timing.reset(reset)

        self._broker.serve(served.names, served.limits.retry_delays, take)
        self._intakes.append(intake)

    def _running(self) -> set[asyncio.Task[None]]:
        return in_hand(self._intakes)

    async def _end(self) -> None:
        self._broker.stop()
        await hand_back(self._intakes, self._emit)
        await self._ledger.close()


class _Settings(Settings):
    """Settings of which the environment says nothing."""

    @classmethod
    def settings_customise_sources(  # type: ignore[override]
        cls,
        settings_cls: Any,  # noqa: ARG003
        init_settings: Any,
        **others: Any,  # noqa: ARG003
    ) -> tuple[Any, ...]:
        return (init_settings,)


def _settings(given: dict[str, Any]) -> Settings:
    unknown = [name for name in given if name not in Settings.model_fields]
    if unknown:
        raise TypeError(f"{', '.join(unknown)}: no setting of the worker has this name")
    return _Settings(**{"ledger_url": "sqlite:///in-memory", **given})
