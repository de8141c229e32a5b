"""Keeping a link: what becomes of one that fails, when the next is built, and when there can be none."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

import pytest
from pydantic import SecretStr

from session_client.net.errors import ConnectError
from session_worker.broker import backoff
from session_worker.runtime import keeper
from session_worker.runtime.stopping import StartError
from session_worker.runtime.worker import Worker
from session_worker.settings import load
from tests.support import parts
from tests.unit.runtime.links import FakeLink, HalfDeadLink, OperationsLink, builder

if TYPE_CHECKING:
    from pathlib import Path


async def run(links: list[FakeLink], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a worker to which the broker gives these links, until it has the last one."""
    stop = asyncio.Event()
    monkeypatch.setattr("session_worker.runtime.keeper.Link.build", builder(links, stop))
    settings = parts.worker_settings(ledger_url=SecretStr(f"sqlite:///{folder}/ledger.db"))
    async with asyncio.timeout(20):
        await Worker(settings, stop).run()


@pytest.mark.parametrize("failing", ["pause", "resume"])
async def test_link_whose_consuming_cannot_be_switched_is_given_up(
    failing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kept, it would not consume again, or go on against the ledger's outage, for as long as it lives."""
    links = [HalfDeadLink(failing), FakeLink()]
    await run(links, tmp_path, monkeypatch)
    assert links[0].closed
    assert links[1].subscribed.is_set()


async def test_links_that_are_lost_at_once_are_not_built_without_a_pause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a healthy one, the next comes at once; after each in a row that was not, later."""
    pauses: list[float] = []

    async def rest(_: object, seconds: float) -> None:
        pauses.append(seconds)

    monkeypatch.setattr(keeper, "HEALTHY_SECONDS", 1.0)
    monkeypatch.setattr(keeper.LinkKeeper, "_rest", rest)
    monkeypatch.setattr(random, "random", lambda: 0.0)
    await run([FakeLink(life) for life in (0, 0, 0, 1.1, 0, None)], tmp_path, monkeypatch)
    assert pauses == [backoff.link_delay(early, 0.0) for early in (1, 2, 3, 0, 1)]


async def test_a_link_that_stands_when_the_worker_is_told_to_stop_is_paused_and_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = FakeLink()
    await run([link], tmp_path, monkeypatch)
    assert (link.consuming, link.closed) == (False, True)


async def test_a_stop_waits_until_no_operation_consumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not only until the first of them does not: what the others get would find the link closed."""
    link = OperationsLink()
    await run([link], tmp_path, monkeypatch)
    assert link.closed
    assert link.consuming_at_the_close == 0
    assert len(link.subscriptions) == 4


@pytest.mark.parametrize("named", [False, True])
async def test_who_has_no_broker_and_named_none_hears_of_a_command_that_brings_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: bool
) -> None:
    async def fail(*_: object) -> None:
        raise ConnectError("nothing listens there", permanent=False)

    monkeypatch.setattr("session_worker.runtime.keeper.Link.build", fail)
    monkeypatch.setattr(keeper, "START_SECONDS", 0)
    monkeypatch.delenv("SESSION_WORKER_AMQP_URL", raising=False)
    settings = load(
        ledger_url=f"sqlite:///{tmp_path}/ledger.db", amqp_url="amqp://localhost/" if named else None
    )
    with pytest.raises(StartError, match="nothing listens there") as told:
        await Worker(settings, asyncio.Event()).run()
    assert ("`session-worker dev`" in str(told.value)) is not named
