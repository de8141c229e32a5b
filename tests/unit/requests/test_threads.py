"""Slots and the threads that go with them."""

from __future__ import annotations

import asyncio
import threading
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from session_worker.requests.threads import HandlerThreads
from session_worker.requests.turns import Slots

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator


@pytest.fixture
def over() -> Iterator[threading.Event]:
    """What the calls in threads wait for; at the latest it is set when the test ends."""
    event = threading.Event()
    yield event
    event.set()


async def _use_threads(count: int) -> None:
    asyncio.get_running_loop().set_default_executor(HandlerThreads(count))


@asynccontextmanager
async def _attempt(slots: Slots, *calls: threading.Event) -> AsyncIterator[asyncio.Task[None]]:
    """An attempt whose handler waits in threads for ``calls``; within the block they have begun."""
    begun = [threading.Event() for _ in calls]

    def wait(mine: threading.Event, call: threading.Event) -> None:
        mine.set()
        call.wait(30)

    async def run() -> None:
        async with slots.take() as ours:
            assert ours
            await asyncio.gather(*(asyncio.to_thread(wait, *both) for both in zip(begun, calls, strict=True)))

    task = asyncio.create_task(run())
    for each in begun:
        await _until(each.is_set)
    yield task
    task.cancel()
    await asyncio.wait({task})


async def _until(condition: object) -> None:
    assert callable(condition)
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


async def _try(slots: Slots) -> bool:
    async with slots.take() as ours:
        return ours


async def test_a_thread_that_outlives_its_attempt_keeps_the_slot_until_it_ends(
    over: threading.Event,
) -> None:
    slots = Slots(1)
    await _use_threads(1)
    async with _attempt(slots, over):
        pass
    assert slots.exhausted
    next_one = asyncio.create_task(_try(slots))
    await asyncio.sleep(0)
    assert not next_one.done()
    over.set()
    assert await asyncio.wait_for(next_one, 10)
    assert not slots.exhausted


async def test_a_thread_that_ended_in_time_keeps_no_slot(over: threading.Event) -> None:
    slots = Slots(1)
    await _use_threads(1)
    async with _attempt(slots, over) as attempt:
        over.set()
        await attempt
    assert await asyncio.wait_for(_try(slots), 1)


async def test_a_request_with_a_slot_gets_a_thread_however_many_the_others_use(
    over: threading.Event,
) -> None:
    slots = Slots(2)
    await _use_threads(2)
    async with _attempt(slots, over, over, over):

        async def call() -> str:
            async with slots.take():
                return await asyncio.to_thread(lambda: "called")

        assert await asyncio.wait_for(asyncio.create_task(call()), 10) == "called"


async def test_further_calls_of_one_operation_take_no_threads_from_those_of_another(
    over: threading.Event,
) -> None:
    greedy, modest = Slots(1), Slots(1)
    await _use_threads(2)
    called = threading.Event()
    called.set()
    async with _attempt(greedy, over, over):
        more = [asyncio.create_task(asyncio.to_thread(over.wait, 30)) for _ in range(2)]
        async with _attempt(modest, called, called) as attempt:
            await asyncio.wait_for(attempt, 10)
        over.set()
        await asyncio.gather(*more)


async def test_calls_outside_of_all_slots_take_no_threads_from_them(over: threading.Event) -> None:
    slots = Slots(1)
    await _use_threads(1)
    outside = [asyncio.create_task(asyncio.to_thread(over.wait, 30)) for _ in range(3)]
    called = threading.Event()
    called.set()
    async with _attempt(slots, called) as attempt:
        await asyncio.wait_for(attempt, 10)
    over.set()
    await asyncio.gather(*outside)


async def test_no_request_waits_for_slots_that_threads_keep_once_requests_are_turned_away(
    over: threading.Event,
) -> None:
    slots = Slots(1)
    await _use_threads(1)
    async with _attempt(slots, over):
        pass
    waiting = asyncio.create_task(_try(slots))
    await asyncio.sleep(0)
    slots.turn_away()
    assert not await asyncio.wait_for(waiting, 1)
    assert not await asyncio.wait_for(_try(slots), 1)
    over.set()
    await _until(lambda: not slots.exhausted)
    assert await asyncio.wait_for(_try(slots), 1)


async def test_a_request_is_not_turned_away_while_a_slot_will_come(
    over: threading.Event,
) -> None:
    slots = Slots(1)
    await _use_threads(1)
    async with _attempt(slots, over) as attempt:
        waiting = asyncio.create_task(_try(slots))
        await asyncio.sleep(0)
        slots.turn_away()
        over.set()
        await attempt
    assert await asyncio.wait_for(waiting, 1)


async def test_a_slot_given_to_a_request_that_was_cancelled_meanwhile_goes_to_the_next() -> None:
    slots = Slots(1)
    async with slots.take():
        first, second = (asyncio.create_task(_try(slots)) for _ in range(2))
        await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait({first})
    assert await asyncio.wait_for(second, 1)
    assert await asyncio.wait_for(_try(slots), 1)
