"""Data that the database refuses fails its own request and none of its neighbours, over both databases."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from uuid import UUID, uuid4

import pytest

from session_contracts import RequestStatus
from session_worker.ledger.protocol import Claimed, Finished, StepResult, UnstorableError
from tests.support.ledger import a_claim, completed, entry, failed, sql, take, worker


@pytest.mark.parametrize("culprits", [{0}, {17}, {3, 4, 39}, set(range(40))])
async def test_a_claim_that_cannot_be_stored_fails_alone(ledger_url: str, culprits: set[int]) -> None:
    """A lone surrogate has no UTF-8 form, so neither database stores it: only its own claim hears that."""
    async with worker(ledger_url) as ledger:
        claims = [a_claim(user_id="\ud800" if number in culprits else "ada") for number in range(40)]
        answers = await asyncio.gather(*map(ledger.claim, claims), return_exceptions=True)
        assert ledger.availability.up
    for number, answer in enumerate(answers):
        assert isinstance(answer, UnstorableError if number in culprits else Claimed), answer
    assert await sql(ledger_url, "SELECT count(*) FROM requests") == [(40 - len(culprits),)]


async def test_an_outcome_that_breaks_a_constraint_fails_alone(ledger_url: str) -> None:
    """Two requests cannot have one session: the second outcome is refused whole, and can be failed."""
    async with worker(ledger_url) as ledger:
        claims = [await take(ledger) for _ in range(10)]
        twin = await take(ledger, UUID(int=2**128 - 1), session_id=claims[4].session_id)
        steps = await asyncio.gather(
            *(ledger.finish(completed(claim)) for claim in [*claims, twin]), return_exceptions=True
        )
        assert steps[:10] == [StepResult.APPLIED] * 10
        assert isinstance(steps[10], UnstorableError)
        assert (await entry(ledger_url, twin.request_id)).status is RequestStatus.PROCESSING
        assert await ledger.finish(failed(twin)) is StepResult.APPLIED
    assert await sql(ledger_url, "SELECT count(*) FROM sessions") == [(10,)]


async def test_an_outcome_of_a_newer_release_is_served(ledger_url: str) -> None:
    """Its error code is not known here. The answer goes out all the same, and the neighbours in the batch are
    claimed."""
    async with worker(ledger_url) as ledger:
        claim = await take(ledger)
        await ledger.finish(failed(claim))
        await sql(ledger_url, "UPDATE requests SET error_code = 'of_the_next_release'")
        neighbours = [a_claim() for _ in range(3)]
        claims = [a_claim(), a_claim(claim.request_id), *neighbours]
        _, answer, *others = await asyncio.gather(*map(ledger.claim, claims))
    assert isinstance(answer, Finished)
    assert (answer.response, answer.error_code) == (b"sorry", None)
    assert all(isinstance(other, Claimed) for other in others)


async def test_a_note_that_nobody_awaits_cannot_break_its_neighbours(ledger_url: str) -> None:
    """Notes about unknown requests are dropped quietly."""
    async with worker(ledger_url) as ledger:
        claim = await take(ledger)
        await ledger.finish(completed(claim))
        ledger.note_sent(uuid4(), uuid4())
        ledger.note_sent(claim.request_id, claim.token)
    assert (await entry(ledger_url, claim.request_id)).reply == "sent"


@pytest.mark.parametrize("seconds", [1e300, float("nan")])
async def test_an_absurd_time_to_live_fails_alone(ledger_url: str, seconds: float) -> None:
    """No time is that far away."""
    async with worker(ledger_url) as ledger:
        bad, good = await asyncio.gather(
            ledger.claim(a_claim(time_to_live=seconds)), ledger.claim(a_claim()), return_exceptions=True
        )
    assert isinstance(bad, UnstorableError)
    assert isinstance(good, Claimed)


async def test_postgresql_refuses_the_nul_character_for_its_own_request_only(postgresql_url: str) -> None:
    """PostgreSQL's text holds no NUL; SQLite's does."""
    async with worker(postgresql_url) as ledger:
        claims = [await take(ledger) for _ in range(8)]
        finishes = [failed(claim) for claim in claims]
        finishes[3] = replace(finishes[3], detail="a\x00b")
        steps = await asyncio.gather(*map(ledger.finish, finishes), return_exceptions=True)
    assert isinstance(steps.pop(3), UnstorableError)
    assert steps == [StepResult.APPLIED] * 7


async def test_overlapping_batches_of_two_workers_do_not_deadlock(ledger_url: str) -> None:
    """Two workers claim, finish and note the same 300 requests in opposite order, again and again."""
    async with worker(ledger_url) as one, worker(ledger_url) as two:
        for _ in range(5):
            claims = [a_claim() for _ in range(300)]
            rivals = [a_claim(claim.request_id) for claim in reversed(claims)]
            mine, theirs = await asyncio.gather(
                asyncio.gather(*map(one.claim, claims)), asyncio.gather(*map(two.claim, rivals))
            )
            taken = sum(isinstance(answer, Claimed) for answer in [*mine, *theirs])
            assert taken == 300
            steps = await asyncio.gather(
                *(one.finish(completed(claim)) for claim in claims),
                *(two.finish(completed(claim)) for claim in rivals),
            )
            assert sum(step is StepResult.APPLIED for step in steps) == 300
            await asyncio.gather(
                *(
                    ledger.note_parked(claim.request_id, claim.token)
                    for ledger in (one, two)
                    for claim in claims
                )
            )
        assert one.availability.up
        assert two.availability.up
    assert await sql(ledger_url, "SELECT count(*) FROM sessions") == [(1500,)]
    if ledger_url.startswith("postgresql"):
        assert await sql(
            ledger_url, "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
        ) == [(0,)]
