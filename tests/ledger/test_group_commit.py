"""Group commit by itself: whatever the interleaving, each caller gets its own answer."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from session_worker.ledger import group_commit
from session_worker.ledger.group_commit import GroupCommit
from session_worker.ledger.protocol import LedgerError, UnstorableError

if TYPE_CHECKING:
    from collections.abc import Sequence


FEW = 64
"""Notes beside few steps, in the groups that share their batches."""


@dataclass(frozen=True)
class Ask:
    """Step ``number`` for a request; ``bad``: the database refuses it."""

    request_id: UUID
    number: int
    bad: bool = False


class Database:
    """Commits batches when it is told to, and checks what a database may rely on."""

    def __init__(self) -> None:
        self.batches: list[list[Ask]] = []
        self.busy = False
        self.committed: list[Ask] = []

    async def commit(self, batch: Sequence[Ask]) -> list[int]:
        assert not self.busy, "two transactions at the same time"
        keys = [ask.request_id.int for ask in batch]
        assert keys == sorted(set(keys)), "a batch is sorted and names no request twice"
        assert len(batch) <= 2 * group_commit.MAX_BATCH
        self.batches.append(list(batch))
        self.busy = True
        await asyncio.sleep(0)
        self.busy = False
        if any(ask.bad for ask in batch):
            raise UnstorableError("bad data")
        self.committed += batch
        return [ask.number for ask in batch]


def numbered(number: int, request: int, *, bad: bool = False) -> Ask:
    return Ask(UUID(int=request), number, bad)


@settings(deadline=None, max_examples=200)
@given(st.lists(st.tuples(st.integers(0, 8), st.booleans(), st.integers(0, 3), st.booleans()), max_size=60))
def test_every_caller_gets_its_own_answer(plan: list[tuple[int, bool, int, bool]]) -> None:
    """Any mix of requests, bad data, pauses and cancelled callers: good steps are committed once each and in
    order for each request, bad ones are rejected alone, and nobody waits for ever."""

    async def run() -> None:
        database = Database()
        group: GroupCommit[Ask, int] = GroupCommit(database.commit)
        asks = [numbered(number, request, bad=bad) for number, (request, bad, *_) in enumerate(plan)]
        tasks = []
        for ask, (_, _, pauses, cancelled) in zip(asks, plan, strict=True):
            task = asyncio.create_task(group.do(ask))
            tasks.append(task)
            for _ in range(pauses):
                await asyncio.sleep(0)
            if cancelled:
                task.cancel()
        answers = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 10)
        await group.close(10)
        for ask, answer in zip(asks, answers, strict=True):
            if not isinstance(answer, asyncio.CancelledError):
                assert isinstance(answer, UnstorableError) if ask.bad else answer == ask.number
        for request in range(9):
            order = [ask.number for ask in database.committed if ask.request_id.int == request]
            assert order == sorted(set(order))

    asyncio.run(run())


async def test_a_lone_step_starts_at_once() -> None:
    """No timer: the transaction begins in the next turn of the event loop."""
    database = Database()
    group: GroupCommit[Ask, int] = GroupCommit(database.commit)
    task = asyncio.create_task(group.do(numbered(1, 1)))
    for _ in range(2):
        await asyncio.sleep(0)
    assert database.busy
    assert await task == 1


async def test_what_comes_during_a_transaction_shares_the_next() -> None:
    """One in flight, everything else gathers: 100 steps take two transactions."""
    database = Database()
    group: GroupCommit[Ask, int] = GroupCommit(database.commit)
    first = asyncio.create_task(group.do(numbered(0, 0)))
    while not database.busy:
        await asyncio.sleep(0)
    await asyncio.gather(first, *(group.do(numbered(number, number)) for number in range(1, 100)))
    assert [len(batch) for batch in database.batches] == [1, 99]


async def test_a_batch_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not fit waits for the next transaction."""
    monkeypatch.setattr(group_commit, "MAX_BATCH", 10)
    database = Database()
    group: GroupCommit[Ask, int] = GroupCommit(database.commit)
    await asyncio.gather(*(group.do(numbered(number, number)) for number in range(25)))
    assert [len(batch) for batch in database.batches] == [10, 10, 5]


async def test_what_nobody_waits_for_holds_nobody_up() -> None:
    """A heap of notes goes along with the batches of the others a few at a time, and all of them go."""
    database = Database()
    group: GroupCommit[Ask, int] = GroupCommit(database.commit, min_notes=FEW)
    for number in range(1000):
        group.note(numbered(number, number))
    while not database.busy:
        await asyncio.sleep(0)
    assert await group.do(numbered(1000, 1000)) == 1000
    assert [len(batch) for batch in database.batches[:2]] == [FEW, 1 + FEW]
    await group.close(10)
    assert sorted(ask.number for ask in database.committed) == list(range(1001))


async def test_notes_keep_up_with_full_batches() -> None:
    """However many steps there are for each transaction, as many notes have their place beside them."""
    database = Database()
    group: GroupCommit[Ask, int] = GroupCommit(database.commit, min_notes=FEW)
    asks = [numbered(number, number) for number in range(group_commit.MAX_BATCH)]
    for number in range(1000, 1000 + len(asks)):
        group.note(numbered(number, number))
    await asyncio.gather(*(group.do(ask) for ask in asks))
    # Some went before the first step came.
    assert [len(batch) for batch in database.batches] == [FEW, 2 * len(asks) - FEW]


async def test_notes_by_themselves_take_whole_batches() -> None:
    """Where a group has nothing but notes, they keep up with whatever is finished."""
    database = Database()
    group: GroupCommit[Ask, int] = GroupCommit(database.commit)
    for number in range(1000):
        group.note(numbered(number, number))
    await group.close(10)
    assert [len(batch) for batch in database.batches] == [group_commit.MAX_BATCH] * 2


async def test_a_note_waits_for_the_batch_after_a_step_of_its_request() -> None:
    """The step comes first, the note is written with the next transaction."""
    database = Database()
    group: GroupCommit[Ask, int] = GroupCommit(database.commit)
    group.note(numbered(2, 7))
    assert await group.do(numbered(1, 7)) == 1
    await group.close(10)
    assert [[ask.number for ask in batch] for batch in database.batches] == [[1], [2]]


async def test_an_unexpected_error_reaches_every_caller_and_ends_nothing() -> None:
    """A defect in the ledger is heard by its callers; the next batch runs."""

    async def commit(batch: Sequence[Ask]) -> list[int]:
        if batch[0].bad:
            raise ZeroDivisionError
        return [ask.number for ask in batch]

    group: GroupCommit[Ask, int] = GroupCommit(commit)
    with pytest.raises(ZeroDivisionError):
        await group.do(numbered(1, 1, bad=True))
    assert await group.do(numbered(2, 1)) == 2


async def test_an_unexpected_error_is_its_step_s_alone() -> None:
    """One step that the ledger stumbles over, among others: they are committed, and get their answers."""

    async def commit(batch: Sequence[Ask]) -> list[int]:
        if any(ask.bad for ask in batch):
            raise ZeroDivisionError
        return [ask.number for ask in batch]

    group: GroupCommit[Ask, int] = GroupCommit(commit)
    asks = [numbered(number, number, bad=number == 5) for number in range(9)]
    answers = await asyncio.gather(*map(group.do, asks), return_exceptions=True)
    assert isinstance(answers.pop(5), ZeroDivisionError)
    assert answers == [0, 1, 2, 3, 4, 6, 7, 8]


@pytest.mark.parametrize("moment", range(6))
async def test_what_its_caller_does_not_hear_of_is_abandoned(moment: int) -> None:
    """Cancelled before its transaction, during it, or between the answer and the caller's next turn."""
    abandoned: list[int] = []
    group: GroupCommit[Ask, int] = GroupCommit(Database().commit, lambda _, number: abandoned.append(number))
    task = asyncio.create_task(group.do(numbered(7, 1)))
    for _ in range(moment):
        await asyncio.sleep(0)
    asked, heard = moment > 0, task.done()
    task.cancel()
    await asyncio.wait({task})
    await group.close(10)
    assert abandoned == ([7] if asked and not heard else [])


async def test_closing_commits_what_waits() -> None:
    """Nothing is dropped while there is time; afterwards nothing is accepted."""
    database = Database()
    group: GroupCommit[Ask, int] = GroupCommit(database.commit)
    tasks = [asyncio.create_task(group.do(numbered(number, 1))) for number in range(5)]
    await asyncio.sleep(0)
    await group.close(10)
    assert await asyncio.gather(*tasks) == [0, 1, 2, 3, 4]
    with pytest.raises(LedgerError):
        await group.do(numbered(6, 1))


async def test_closing_does_not_wait_for_ever() -> None:
    """When time is up every caller hears it, those in flight and those behind them."""

    async def commit(_: Sequence[Ask]) -> list[int]:
        await asyncio.Event().wait()
        return []

    group: GroupCommit[Ask, int] = GroupCommit(commit)
    tasks = [asyncio.create_task(group.do(numbered(number, number % 2))) for number in range(4)]
    await asyncio.sleep(0)
    await group.close(0)
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(answer) for answer in answers] == [LedgerError] * 4
