"""Deliveries of one request take turns, and so do those that are to run alone."""

import asyncio
from collections.abc import Awaitable, Callable
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from session_worker.requests.request import Refusal
from session_worker.requests.turns import OneAtATime, Turns
from tests.support import parts


class Visitor:
    """A task that takes a turn and keeps it until told to leave."""

    def __init__(self, turns: Turns, request_id: UUID, log: list[int], number: int) -> None:
        self.leave = asyncio.Event()
        self.inside = False
        self.task = asyncio.ensure_future(self._visit(turns, request_id, log, number))

    async def _visit(self, turns: Turns, request_id: UUID, log: list[int], number: int) -> None:
        async with turns.take(parts.request(content=parts.body(request_id))):
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


async def test_a_refusal_does_not_wait_for_the_request_whose_id_it_bears() -> None:
    turns, request_id = Turns(), uuid4()
    refusal = parts.parser().parse(parts.delivery(parts.body(request_id, operation="delete")))
    assert isinstance(refusal, Refusal)
    assert refusal.request_id == request_id
    async with asyncio.timeout(5):
        async with turns.take(parts.request(content=parts.body(request_id))), turns.take(refusal):
            pass
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
def test_one_delivery_at_a_time_has_its_turn_whichever_are_cancelled(
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


# --------------------------------------------------------------------------------------- one by one


class Comer:
    """A task that asks for its turn; ``ours`` says what it was told."""

    def __init__(self, line: OneAtATime) -> None:
        self.leave = asyncio.Event()
        self.ours: bool | None = None
        self.task = asyncio.ensure_future(self._come(line))

    async def _come(self, line: OneAtATime) -> None:
        async with line.turn() as self.ours:
            if self.ours:
                await self.leave.wait()


async def test_turns_are_given_one_at_a_time_in_order_and_within_the_places() -> None:
    line = OneAtATime(places=3, seconds=60)
    comers = [Comer(line) for _ in range(4)]
    for number in range(3):
        await _settle_down()
        assert [comer.ours for comer in comers] == [True] * (number + 1) + [None] * (2 - number) + [False]
        comers[number].leave.set()
    await asyncio.gather(*(comer.task for comer in comers))


async def _impatient(line: OneAtATime) -> None:
    comer = Comer(line)
    await asyncio.wait_for(comer.task, 5)
    assert comer.ours is False


async def _cancelled(line: OneAtATime) -> None:
    comer = Comer(line)
    await _settle_down()
    comer.task.cancel()
    await asyncio.wait({comer.task})
    assert comer.task.cancelled()
    assert comer.ours is None


@pytest.mark.parametrize(("leave", "seconds"), [(_impatient, 0.01), (_cancelled, 60)])
async def test_leaving_without_a_turn_gives_the_place_away(
    leave: Callable[[OneAtATime], Awaitable[None]], seconds: float
) -> None:
    line = OneAtATime(places=2, seconds=seconds)
    first = Comer(line)
    await _settle_down()
    for _ in range(3):
        await leave(line)
    last = Comer(line)
    await _settle_down()
    assert (first.ours, last.ours) == (True, None)
    first.leave.set()
    await _settle_down()
    assert last.ours is True
    last.leave.set()
    await last.task


async def test_a_turn_that_ends_in_an_error_is_passed_on() -> None:
    line = OneAtATime(places=1, seconds=60)

    async def fail() -> None:
        async with line.turn() as ours:
            assert ours
            raise ZeroDivisionError

    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            await fail()
