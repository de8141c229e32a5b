"""The lifespan of an app: entered and left by one task, and what comes of one that fails."""

from __future__ import annotations

import asyncio
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from session_worker.operations.app import App
from session_worker.runtime import lifespan
from session_worker.runtime.lifespan import Lifespan
from session_worker.runtime.stopping import StartError
from session_worker.telemetry.events import LifespanFailed, LifespanNotLeft

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from session_worker.telemetry.events import Event


class Life:
    """A lifespan under test: what it told, and the order to stop that it may give."""

    def __init__(self, made: Callable[[], Any] | None) -> None:
        self.stop = asyncio.Event()
        self.told: list[Event] = []
        app: App[Any] = App() if made is None else App(lifespan=made)
        self.span = Lifespan(app, self.stop, self.told.append)


async def test_an_app_without_a_lifespan_has_no_resources() -> None:
    life = Life(None)
    assert await life.span.enter() is None
    await life.span.leave(in_use=False)
    assert (life.told, life.stop.is_set()) == ([], False)


async def test_one_task_enters_and_leaves_it() -> None:
    """A task group, or a time limit, cannot be left by another one than entered it."""
    tasks: list[object] = []

    @asynccontextmanager
    async def resources() -> AsyncIterator[str]:
        async with asyncio.TaskGroup():
            tasks.append(asyncio.current_task())
            yield "made"
            tasks.append(asyncio.current_task())

    life = Life(resources)
    assert await asyncio.create_task(life.span.enter()) == "made"
    await life.span.leave(in_use=False)
    assert tasks[0] is tasks[1]
    assert (life.told, life.span.broken) == ([], None)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ConnectionError("no stock"), "the app's lifespan failed: ConnectionError: no stock"),
        (SystemExit("no licence"), "the app's lifespan failed: SystemExit: no licence"),
        (asyncio.CancelledError(), "the app's lifespan failed: CancelledError"),
    ],
    ids=["error", "exit", "cancelled"],
)
async def test_one_that_fails_at_the_start_is_a_sentence_with_its_traceback_in_the_log(
    error: BaseException, said: str
) -> None:
    @asynccontextmanager
    async def resources() -> AsyncIterator[None]:
        raise error
        yield  # type: ignore[unreachable]

    life = Life(resources)
    with pytest.raises(StartError) as refused:
        await life.span.enter()
    assert refused.value.what.startswith(said)
    assert life.told == [LifespanFailed(error)]
    await life.span.leave(in_use=False)


async def test_what_is_no_lifespan_is_told_without_a_traceback() -> None:
    life = Life(lambda: sys)
    with pytest.raises(StartError, match="@asynccontextmanager"):
        await life.span.enter()
    assert life.told == []


async def test_one_that_ends_before_it_is_left_has_the_worker_stop() -> None:
    """Here because a task of its own has failed."""
    fail = asyncio.Event()

    async def helper() -> None:
        await fail.wait()
        raise RuntimeError("gone")

    @asynccontextmanager
    async def resources() -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as group:
            group.create_task(helper())
            yield

    life = Life(resources)
    await life.span.enter()
    fail.set()
    async with asyncio.timeout(5):
        await life.stop.wait()
    assert life.span.broken is not None
    assert [type(event) for event in life.told] == [LifespanFailed]


async def test_an_order_to_stop_ends_one_that_is_still_being_entered() -> None:
    cleaned: list[bool] = []

    @asynccontextmanager
    async def resources() -> AsyncIterator[None]:
        try:
            await asyncio.Event().wait()
            yield
        finally:
            cleaned.append(True)

    life = Life(resources)
    entering = asyncio.create_task(life.span.enter())
    await asyncio.sleep(0)
    life.stop.set()
    assert await entering is None
    await life.span.leave(in_use=False)
    assert (cleaned, life.told) == ([True], [])


async def test_one_that_does_not_end_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifespan, "LEAVE_SECONDS", 0.01)

    @asynccontextmanager
    async def resources() -> AsyncIterator[None]:
        yield
        await asyncio.Event().wait()

    life = Life(resources)
    await life.span.enter()
    await life.span.leave(in_use=False)
    assert [type(event) for event in life.told] == [LifespanNotLeft]


async def test_resources_in_use_are_left_open() -> None:
    left: list[bool] = []

    @asynccontextmanager
    async def resources() -> AsyncIterator[None]:
        yield
        left.append(True)

    life = Life(resources)
    await life.span.enter()
    await life.span.leave(in_use=True)
    for _ in range(5):
        await asyncio.sleep(0)
    assert left == []
    assert [type(event) for event in life.told] == [LifespanNotLeft]
    await life.span.leave(in_use=False)
