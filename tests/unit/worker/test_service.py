"""The worker's supervision by itself: what it makes of a link that fails without being lost."""

import asyncio
import random
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast
from uuid import UUID

import pytest
from pydantic import SecretStr

from session_contracts import amqp
from session_worker.broker import backoff
from session_worker.broker.failures import ConnectError
from session_worker.messages.errors import LinkLostError
from session_worker.runtime.service import HEALTHY_SECONDS, Service
from session_worker.runtime.stopping import StartError
from session_worker.settings import load
from session_worker.telemetry.events import DeliveryFailed
from tests.unit.worker import parts
from tests.unit.worker.parts import CountingReceipt

if TYPE_CHECKING:
    from collections.abc import Callable

    from session_worker.broker.link import Link
    from session_worker.messages.message import Message
    from session_worker.telemetry.events import Event

REQUEST_ID = UUID(int=7)


class HalfDeadLink:
    """The connections stand, but the broker does not answer when consuming is to pause or to go on."""

    def __init__(self, failing: str) -> None:
        self.blocked = True
        self.consuming = True
        self.closed = False
        self._failing = failing

    def watch_blocked(self, watcher: "Callable[[], None]") -> None:
        self._changed = watcher

    async def pause(self) -> None:
        self._answer("pause")
        self.blocked = self.consuming = False
        self._changed()

    async def resume(self) -> None:
        self._answer("resume")

    def _answer(self, asked: str) -> None:
        if asked == self._failing:
            raise LinkLostError("TimeoutError: ")

    async def lost(self) -> str:
        never: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        return await never

    async def close(self) -> None:
        self.closed = True


@pytest.fixture
async def service(tmp_path: Path) -> Service:
    """A worker whose ledger is not open yet."""
    settings = parts.worker_settings(ledger_url=SecretStr(f"sqlite:///{tmp_path}/ledger.db"))
    return Service(settings, asyncio.Event())


@pytest.fixture
def published(service: Service, monkeypatch: pytest.MonkeyPatch) -> "list[Message]":
    """What the worker publishes, in place of the broker."""
    messages: list[Message] = []

    async def publish(message: "Message") -> None:
        messages.append(message)

    monkeypatch.setattr(service._settler, "_publish", publish)
    return messages


@pytest.mark.parametrize("failing", ["pause", "resume"])
async def test_link_whose_consuming_cannot_be_switched_is_given_up(failing: str, service: Service) -> None:
    """Kept, it would not consume again, or go on against the ledger's outage, for as long as it lives."""
    link = HalfDeadLink(failing)
    async with asyncio.timeout(5):
        await service._stay_linked(cast("Link", link))
    assert link.closed


async def test_links_that_are_lost_at_once_are_not_built_without_a_pause(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a healthy one, the next comes at once; after each in a row that was not, later."""
    lives = iter([0.0, 0.0, 0.0, HEALTHY_SECONDS * 2, 0.0])
    now, pauses = [0.0], list[float]()

    async def connect(**_: object) -> object:
        return object() if len(pauses) < 5 else None

    async def live(_: object) -> None:
        now[0] += next(lives)

    async def rest(seconds: float) -> None:
        pauses.append(seconds)

    monkeypatch.setattr(service, "_connect", connect)
    monkeypatch.setattr(service, "_stay_linked", live)
    monkeypatch.setattr(service, "_rest", rest)
    monkeypatch.setattr(service, "_loop", SimpleNamespace(time=lambda: now[0]))
    monkeypatch.setattr(random, "random", lambda: 0.0)
    await service.run()
    assert pauses == [backoff.link_delay(early, 0.0) for early in (1, 2, 3, 0, 1)]


async def test_second_delivery_of_a_running_request_waits_and_gets_the_same_response(
    service: Service, published: "list[Message]", monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not claimed meanwhile: no second run, no round through a retry queue."""
    calls, go_on = list[object](), asyncio.Event()

    async def handle(*call: object) -> None:
        calls.append(call)
        await go_on.wait()

    monkeypatch.setattr(service._flow, "_handler", handle)
    deliveries = [parts.delivery(parts.body(REQUEST_ID)) for _ in range(2)]
    await service._ledger.open()
    try:
        async with asyncio.timeout(10), asyncio.TaskGroup() as serving:
            for delivery in deliveries:
                serving.create_task(service._serve(delivery))
            while not calls:
                await asyncio.sleep(0.01)
            go_on.set()
    finally:
        await service._ledger.close()
    first, second = published
    assert (len(calls), first.body) == (1, second.body)
    assert [message.properties.headers for message in published] == [None, {amqp.IDEMPOTENT_REPLAYED: True}]
    assert [cast("CountingReceipt", each.receipt).settled for each in deliveries] == [["ack"], ["ack"]]


async def test_sampler_that_fails_leaves_no_delivery_unsettled(
    service: Service, published: "list[Message]", monkeypatch: pytest.MonkeyPatch
) -> None:
    """What begins a trace may be somebody else's code."""

    def begin(_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(service, "_begin", begin)
    receipt = CountingReceipt()
    await service._serve(parts.delivery(parts.body(), receipt=receipt))
    assert ([copy.queue for copy in published], receipt.settled) == (["session.create.retry.600s"], ["ack"])


async def test_defect_of_ours_sends_the_delivery_round_instead_of_losing_it(
    service: Service, published: "list[Message]", monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes back late, under the same id, and holds no slot meanwhile."""

    def fail(*_: object) -> None:
        raise ZeroDivisionError

    told: list[Event] = []
    monkeypatch.setattr(service, "_emit", told.append)
    monkeypatch.setattr(service._flow, "decide", fail)
    receipt = CountingReceipt()
    await service._serve(parts.delivery(parts.body(), receipt=receipt, message_id=str(REQUEST_ID)))
    (copy,) = published
    assert (copy.queue, receipt.settled) == ("session.create.retry.600s", ["ack"])
    assert (copy.properties.headers or {})[amqp.REQUEST_ID] == str(REQUEST_ID)
    (failed,) = told
    assert isinstance(failed, DeliveryFailed)
    assert (failed.request_id, type(failed.exc_info)) == (REQUEST_ID, ZeroDivisionError)


@pytest.mark.parametrize("named", [False, True])
async def test_who_has_no_broker_and_named_none_hears_of_a_command_that_brings_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: bool
) -> None:
    async def refuse(*_: object) -> None:
        raise ConnectError("nothing listens there", permanent=False)

    monkeypatch.setattr("session_worker.runtime.service.Link.build", refuse)
    monkeypatch.setattr("session_worker.runtime.service.START_SECONDS", 0)
    monkeypatch.delenv("SESSION_WORKER_AMQP_URL", raising=False)
    settings = load(
        ledger_url=f"sqlite:///{tmp_path}/ledger.db", amqp_url="amqp://localhost/" if named else None
    )
    with pytest.raises(StartError, match="nothing listens there") as told:
        await Service(settings, asyncio.Event()).run()
    assert ("`session-worker dev`" in str(told.value)) is not named
