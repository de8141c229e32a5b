"""Deliveries in hand: each is settled once, whatever fails, and copies of one request take turns."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, cast
from uuid import UUID

from pydantic import SecretStr

from session_contracts import amqp
from session_worker.requests.flow import Flow
from session_worker.runtime.worker import Worker
from session_worker.telemetry import log
from session_worker.telemetry.events import DeliveryFailed
from tests.support import parts
from tests.support.parts import CountingReceipt
from tests.unit.runtime.links import FakeLink

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    import pytest

    from session_worker.broker.link import Link
    from session_worker.messages.message import Message
    from session_worker.runtime.intake import Intake
    from session_worker.telemetry.events import Event

REQUEST_ID = UUID(int=7)


@asynccontextmanager
async def taking(folder: Path) -> AsyncIterator[tuple[Intake, list[Message]]]:
    """The intake of a worker, and what it publishes in place of the broker."""
    settings = parts.worker_settings(ledger_url=SecretStr(f"sqlite:///{folder}/ledger.db"))
    worker = Worker(settings, asyncio.Event())
    link = FakeLink()
    worker.keeper.link = cast("Link", link)
    await worker.ledger.open()
    try:
        yield worker.intakes[0], link.published
    finally:
        await worker.ledger.close()


async def all_served(intake: Intake) -> None:
    async with asyncio.timeout(10):
        await asyncio.wait(intake.serving)


async def test_second_delivery_of_a_running_request_waits_and_gets_the_same_response(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not claimed meanwhile: no second run, no round through a retry queue."""
    calls, running, go_on = list[object](), asyncio.Event(), asyncio.Event()

    async def handle(*call: object) -> None:
        calls.append(call)
        running.set()
        await go_on.wait()

    monkeypatch.setattr("session_worker.operations.loading.load", lambda *_, **__: parts.app_of(handle))
    deliveries = [parts.delivery(parts.body(REQUEST_ID)) for _ in range(2)]
    async with taking(tmp_path) as (intake, published):
        for delivery in deliveries:
            intake.take(delivery)
        await running.wait()
        go_on.set()
        await all_served(intake)
    first, second = published
    assert (len(calls), first.body) == (1, second.body)
    assert [message.properties.headers for message in published] == [None, {amqp.IDEMPOTENT_REPLAYED: True}]
    assert [cast("CountingReceipt", each.receipt).settled for each in deliveries] == [["ack"], ["ack"]]


async def test_sampler_that_fails_leaves_no_delivery_unsettled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What begins a trace may be somebody else's code."""

    def begin(_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("session_worker.telemetry.trace.begin", begin)
    receipt = CountingReceipt()
    async with taking(tmp_path) as (intake, published):
        intake.take(parts.delivery(parts.body(), receipt=receipt))
        await all_served(intake)
    assert ([copy.queue for copy in published], receipt.settled) == (["session.create.retry.600s"], ["ack"])


async def test_defect_of_ours_sends_the_delivery_round_instead_of_losing_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes back late, under the same id, and holds no slot meanwhile."""

    def fail(*_: object) -> Any:
        raise ZeroDivisionError

    told: list[Event] = []
    monkeypatch.setattr(log, "listeners", lambda: {DeliveryFailed: told.append})
    monkeypatch.setattr(Flow, "decide", fail)
    receipt = CountingReceipt()
    async with taking(tmp_path) as (intake, published):
        intake.take(parts.delivery(parts.body(), receipt=receipt, message_id=str(REQUEST_ID)))
        await all_served(intake)
    (copy,) = published
    assert (copy.queue, receipt.settled) == ("session.create.retry.600s", ["ack"])
    assert (copy.properties.headers or {})[amqp.REQUEST_ID] == str(REQUEST_ID)
    (failed,) = told
    assert isinstance(failed, DeliveryFailed)
    assert (failed.request_id, type(failed.exc_info)) == (REQUEST_ID, ZeroDivisionError)
