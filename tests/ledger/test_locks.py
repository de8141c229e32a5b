"""A row that somebody else holds delays the steps that need it, and nothing else."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import asyncpg
import pytest

from session_worker.ledger.protocol import Claimed, LedgerError, Reopened, StepResult
from tests.support.ledger import FINGERPRINT, a_claim, completed, entry, failed, postponed, released, worker
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from session_worker.ledger.protocol import Claim, Ledger

COUNT = 64
HELD = 17
"""Which of the requests is held."""


@asynccontextmanager
async def held(url: str, sql: str, *values: object) -> AsyncIterator[None]:
    """Lock what ``sql`` names, from outside, for the time of the block."""
    connection = await asyncpg.connect(url)
    try:
        async with connection.transaction():
            await connection.execute(sql, *values)
            yield
    finally:
        await connection.close()


async def all_but_the_held(steps: Sequence[Awaitable[Any]], ledger: Ledger) -> asyncio.Future[Any]:
    """Start all steps, and wait until all but one have ended while that one waits. Return it."""
    tasks = [asyncio.ensure_future(step) for step in steps]
    await eventually(lambda: sum(task.done() for task in tasks) == COUNT - 1, 5)
    await asyncio.sleep(0.3)  # time to look again at what is locked
    assert ledger.availability.up
    (left,) = (task for task in tasks if not task.done())
    assert left is tasks[HELD]
    return left


async def reopen(ledger: Ledger, claim: Claim) -> Reopened:
    return await ledger.reopen(claim.request_id, FINGERPRINT)


STEPS: dict[str, tuple[Callable[[Ledger, Claim], Awaitable[Any]], Any]] = {
    "finish": (lambda ledger, claim: ledger.finish(completed(claim)), StepResult.APPLIED),
    "postpone": (lambda ledger, claim: ledger.postpone(postponed(claim, 60)), 60),
    "release": (lambda ledger, claim: ledger.release(released(claim)), StepResult.APPLIED),
    "note": (lambda ledger, claim: ledger.note_parked(claim.request_id, claim.token), None),
}
LOCK_REQUEST = "SELECT FROM requests WHERE request_id = $1 FOR UPDATE"
LOCK_SESSION = "SELECT FROM sessions WHERE session_id = $1 FOR UPDATE"


@pytest.mark.parametrize("kind", STEPS)
async def test_an_entry_that_is_locked_delays_its_own_step_only(postgresql_url: str, kind: str) -> None:
    """The ledger is not taken for away, and the step ends as ever once the row is free."""
    step, expected = STEPS[kind]
    claims = [a_claim() for _ in range(COUNT)]
    async with worker(postgresql_url) as ledger:
        await asyncio.gather(*map(ledger.claim, claims))
        async with held(postgresql_url, LOCK_REQUEST, claims[HELD].request_id):
            left = await all_but_the_held([step(ledger, claim) for claim in claims], ledger)
        assert await asyncio.wait_for(left, 5) == expected


async def test_an_entry_that_is_locked_delays_its_own_claim_only(postgresql_url: str) -> None:
    claims = [a_claim() for _ in range(COUNT)]
    async with worker(postgresql_url) as ledger:
        await ledger.claim(claims[HELD])
        await ledger.release(released(claims[HELD]))
        async with held(postgresql_url, LOCK_REQUEST, claims[HELD].request_id):
            left = await all_but_the_held([ledger.claim(claim) for claim in claims], ledger)
        assert isinstance(await asyncio.wait_for(left, 5), Claimed)


async def test_an_entry_that_is_locked_delays_its_own_reopening_only(postgresql_url: str) -> None:
    claims = [a_claim() for _ in range(COUNT)]
    async with worker(postgresql_url) as ledger:
        await asyncio.gather(*map(ledger.claim, claims))
        await asyncio.gather(*(ledger.finish(failed(claim)) for claim in claims))
        async with held(postgresql_url, LOCK_REQUEST, claims[HELD].request_id):
            left = await all_but_the_held([reopen(ledger, claim) for claim in claims], ledger)
        assert await asyncio.wait_for(left, 5) is Reopened.REOPENED


@pytest.mark.parametrize("closing", [False, True], ids=["counting", "closing"])
async def test_a_session_that_is_locked_delays_only_what_changes_it(
    postgresql_url: str, closing: bool
) -> None:
    """Requests that name it wait for its counts; so does its closing."""
    makers = [a_claim() for _ in range(COUNT)]
    async with worker(postgresql_url) as ledger:
        await asyncio.gather(*map(ledger.claim, makers))
        await asyncio.gather(*(ledger.finish(completed(claim)) for claim in makers))
        namers = [a_claim(session_id=claim.session_id) for claim in makers]
        await asyncio.gather(*map(ledger.claim, namers))
        async with held(postgresql_url, LOCK_SESSION, makers[HELD].session_id):
            steps: list[Awaitable[Any]] = [
                ledger.close_session(claim.session_id or "", claim.user_id)
                if closing
                else ledger.finish(completed(claim, session=None))
                for claim in namers
            ]
            left = await all_but_the_held(steps, ledger)
        assert await asyncio.wait_for(left, 5)


async def test_a_session_that_is_locked_delays_no_step_that_leaves_it_alone(postgresql_url: str) -> None:
    """Not even when it goes along with one that waits for its entry."""
    makers = [a_claim() for _ in range(COUNT)]
    async with worker(postgresql_url) as ledger:
        await asyncio.gather(*map(ledger.claim, makers))
        await asyncio.gather(*(ledger.finish(completed(claim)) for claim in makers))
        namers = [a_claim(session_id=claim.session_id) for claim in makers]
        await asyncio.gather(*map(ledger.claim, namers))
        async with (
            held(postgresql_url, LOCK_REQUEST, namers[HELD].request_id),
            held(postgresql_url, LOCK_SESSION, makers[HELD + 1].session_id),
        ):
            left = await all_but_the_held([ledger.release(released(claim)) for claim in namers], ledger)
        assert await asyncio.wait_for(left, 5) is StepResult.APPLIED


async def test_a_locked_table_holds_up_everything_and_is_no_outage(postgresql_url: str) -> None:
    """As an upgrade of the schema does, for a moment."""
    claims = [a_claim() for _ in range(COUNT)]
    async with worker(postgresql_url) as ledger:
        async with held(postgresql_url, "LOCK TABLE requests IN ACCESS EXCLUSIVE MODE"):
            tasks = [asyncio.ensure_future(ledger.claim(claim)) for claim in claims]
            looking = asyncio.ensure_future(ledger.knows(uuid4()))
            await asyncio.sleep(0.5)
            assert ledger.availability.up
            assert not any(task.done() for task in (*tasks, looking))
        answers = await asyncio.wait_for(asyncio.gather(*tasks), 5)
        assert all(isinstance(answer, Claimed) for answer in answers)
        assert not await asyncio.wait_for(looking, 5)


async def test_what_waits_for_a_lock_when_the_ledger_is_closed_is_told(
    postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("session_worker.ledger.batched.CLOSE_TIMEOUT", 0.5)
    claim = a_claim()
    async with worker(postgresql_url) as ledger:
        await ledger.claim(claim)
        async with held(postgresql_url, LOCK_REQUEST, claim.request_id):
            task = asyncio.ensure_future(ledger.finish(completed(claim)))
            await asyncio.sleep(0.3)
            await asyncio.wait_for(ledger.close(), 10)
            with pytest.raises(LedgerError, match="closed"):
                await task
    assert (await entry(postgresql_url, claim.request_id)).status == "processing"


async def test_what_gets_free_while_the_ledger_is_being_closed_is_written(postgresql_url: str) -> None:
    claim = a_claim()
    async with worker(postgresql_url) as ledger:
        await ledger.claim(claim)
        async with held(postgresql_url, LOCK_REQUEST, claim.request_id):
            task = asyncio.ensure_future(ledger.finish(completed(claim)))
            await asyncio.sleep(0.3)
            closing = asyncio.ensure_future(ledger.close())
            await asyncio.sleep(0.2)
        await closing
        assert await task is StepResult.APPLIED
