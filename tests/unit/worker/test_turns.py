"""Deliveries of one request take turns."""

import asyncio
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.turns import Turns


class Visitor:
    """A task that takes a turn and keeps it until told to leave."""

    def __init__(self, turns: Turns, request_id: UUID, log: list[int], number: int) -> None:
        self.leave = asyncio.Event()
        self.inside = False
        self.task = asyncio.ensure_future(self._visit(turns, request_id, log, number))

    async def _visit(self, turns: Turns, request_id: UUID, log: list[int], number: int) -> None:
        async with turns.take(request_id):
            log.append(number)
            self.inside = True
            try:
                await self.leave.wait()
            finally:
                self.inside = False


async def _settle_down() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_turns_come_in_the_order_of_asking_and_leave_nothing_behind() -> None:
    turns, log, request_id = Turns(), list[int](), uuid4()
    visitors = [Visitor(turns, request_id, log, number) for number in range(4)]
    for number, visitor in enumerate(visitors):
        await _settle_down()
        assert log == list(range(number + 1))
        visitor.leave.set()
    await asyncio.gather(*(visitor.task for visitor in visitors))
    assert turns._waiting == {}


async def test_requests_do_not_wait_for_one_another() -> None:
    turns, log = Turns(), list[int]()
    visitors = [Visitor(turns, uuid4(), log, number) for number in range(3)]
    await _settle_down()
    assert log == [0, 1, 2]
    for visitor in visitors:
        visitor.task.cancel()
    await asyncio.wait([visitor.task for visitor in visitors])
    assert turns._waiting == {}


async def test_cancelled_waiter_is_passed_over() -> None:
    turns, log, request_id = Turns(), list[int](), uuid4()
    first, second, third = (Visitor(turns, request_id, log, number) for number in range(3))
    await _settle_down()
    second.task.cancel()
    first.leave.set()
    await _settle_down()
    assert log == [0, 2]
    third.leave.set()
    await third.task
    with pytest.raises(asyncio.CancelledError):
        await second.task
    assert turns._waiting == {}


async def test_waiter_that_is_cancelled_together_with_the_holder_ends_as_cancelled() -> None:
    """At shutdown all are cancelled in one go: the holder passes over a turn that is cancelled already."""
    turns, log, request_id = Turns(), list[int](), uuid4()
    visitors = [Visitor(turns, request_id, log, number) for number in range(3)]
    await _settle_down()
    for visitor in visitors:
        visitor.task.cancel()
    await asyncio.wait([visitor.task for visitor in visitors])
    assert [visitor.task.cancelled() for visitor in visitors] == [True, True, True]
    assert turns._waiting == {}


async def test_turn_given_to_a_waiter_that_is_cancelled_then_goes_to_the_next() -> None:
    turns, log, request_id = Turns(), list[int](), uuid4()
    first, second, third = (Visitor(turns, request_id, log, number) for number in range(3))
    await _settle_down()
    first.leave.set()
    await asyncio.sleep(0)  # the first leaves: the turn is the second's, who has not run yet
    assert not second.inside
    second.task.cancel()
    await _settle_down()
    assert log == [0, 2]
    third.leave.set()
    await third.task
    assert turns._waiting == {}


@given(
    moves=st.lists(
        st.tuples(st.sampled_from(["come", "leave", "cancel", "breathe"]), st.integers(0, 7)), max_size=40
    )
)
def test_whoever_comes_leaves_or_is_cancelled_one_is_inside_and_nothing_is_left(
    moves: list[tuple[str, int]],
) -> None:
    """Any interleaving: never two inside, nobody starves, no entry stays."""
    asyncio.run(_play(moves))


async def _play(moves: list[tuple[str, int]]) -> None:
    turns, log, request_id = Turns(), list[int](), uuid4()
    visitors: list[Visitor] = []
    for move, number in moves:
        if move == "come":
            visitors.append(Visitor(turns, request_id, log, len(visitors)))
        elif move == "breathe":
            await asyncio.sleep(0)
        elif visitors:
            visitor = visitors[number % len(visitors)]
            visitor.leave.set() if move == "leave" else visitor.task.cancel()
        assert sum(visitor.inside for visitor in visitors) <= 1
    for visitor in visitors:
        visitor.leave.set()
    if visitors:
        await asyncio.wait([visitor.task for visitor in visitors], timeout=5)
    assert all(visitor.task.cancelled() or visitor.task.exception() is None for visitor in visitors)
    assert log == sorted(log)
    assert turns._waiting == {}
