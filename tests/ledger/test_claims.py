"""Conformance: what a claim is answered, over both databases."""

from __future__ import annotations

import asyncio
from uuid import uuid4

import pytest

from session_contracts import ErrorCode, RequestStatus
from session_worker.ledger.protocol import Claimed, Finished, NotNow, StepResult
from tests.support.ledger import (
    a_claim,
    completed,
    entry,
    failed,
    postponed,
    released,
    shift,
    sql,
    take,
    worker,
)


async def test_a_new_request_is_claimed_and_passes_through_pending(ledger_url: str) -> None:
    """The first claim is attempt 1, reserves the proposed session id, and both moves stand in the history."""
    claim = a_claim()
    async with worker(ledger_url, "ada-1") as ledger:
        answer = await ledger.claim(claim)
    assert isinstance(answer, Claimed)
    assert (answer.session_id, answer.attempt, answer.crashes, answer.expired) == (
        claim.session_id,
        1,
        0,
        False,
    )
    found = await entry(ledger_url, claim.request_id)
    assert (found.status, found.attempt, found.received_at) == (
        RequestStatus.PROCESSING,
        1,
        answer.received_at,
    )
    received = answer.received_at.isoformat(timespec="microseconds")
    assert list(found.history) == [
        {"status": "pending", "at": received, "attempt": 0, "worker_id": "ada-1", "detail": None},
        {"status": "processing", "at": received, "attempt": 1, "worker_id": "ada-1", "detail": None},
    ]


async def test_every_column_people_query_is_kept(ledger_url: str) -> None:
    """What the claim says of the request stands in the columns of ``requests``."""
    async with worker(ledger_url) as ledger:
        claim = await take(ledger)
    rows = await sql(
        ledger_url,
        "SELECT user_id, operation, casefile_id, title, reply_to, correlation_id, session_id, fingerprint"
        " FROM requests",
    )
    assert rows == [
        (
            *(claim.user_id, claim.operation, claim.casefile_id, claim.title),
            *(claim.reply_to, claim.correlation_id, claim.session_id, claim.fingerprint),
        )
    ]


async def test_a_repeated_claim_is_answered_alike_and_counts_nothing_twice(ledger_url: str) -> None:
    """The same token means the same claim: after a commit of unknown outcome it is simply sent again."""
    async with worker(ledger_url) as ledger:
        claim = a_claim()
        first = await ledger.claim(claim)
        before = await entry(ledger_url, claim.request_id)
        assert await ledger.claim(claim) == first
    assert await entry(ledger_url, claim.request_id) == before


async def test_a_claim_that_arrives_again_after_its_release_takes_nothing(ledger_url: str) -> None:
    """A statement whose connection was given up may still run, after everything that followed it."""
    async with worker(ledger_url) as ledger:
        claim = await take(ledger)
        await ledger.release(released(claim))
        before = await entry(ledger_url, claim.request_id)
        await ledger.claim(claim)
    assert await entry(ledger_url, claim.request_id) == before


async def test_a_running_request_is_in_other_hands(ledger_url: str) -> None:
    """Another claim hears how long its live holder could still be taken for alive."""
    async with worker(ledger_url, holder_timeout=15) as holder, worker(ledger_url) as other:
        claim = await take(holder)
        answer = await other.claim(a_claim(claim.request_id))
    assert isinstance(answer, NotNow)
    assert answer.running
    assert 10 < answer.wait <= 15


async def test_a_request_that_is_not_due_waits(ledger_url: str) -> None:
    """Before its time nobody gets it, its last holder included; the answer says how long that is."""
    async with worker(ledger_url) as ledger:
        claim = await take(ledger)
        assert await ledger.postpone(postponed(claim, 60)) == 60
        answer = await ledger.claim(a_claim(claim.request_id))
    assert isinstance(answer, NotNow)
    assert not answer.running
    assert 55 < answer.wait <= 60


async def test_a_due_request_gets_its_next_attempt(ledger_url: str) -> None:
    """At its time it is claimed, its failed attempt counted, under the session id of the first claim."""
    async with worker(ledger_url) as ledger:
        claim = await take(ledger)
        await ledger.postpone(postponed(claim, 60))
        await shift(ledger_url, "requests.next_attempt_at", -60, "true")
        answer = await ledger.claim(a_claim(claim.request_id))
    assert isinstance(answer, Claimed)
    assert (answer.attempt, answer.session_id) == (2, claim.session_id)
    found = await entry(ledger_url, claim.request_id)
    assert found.next_attempt_at is None
    assert [(each["status"], each["attempt"]) for each in found.history] == [
        ("pending", 0),
        ("processing", 1),
        ("pending", 1),
        ("processing", 2),
    ]


@pytest.mark.parametrize("code", [None, ErrorCode.HANDLER_FAILED])
async def test_a_finished_request_is_answered_with_what_was_stored(
    ledger_url: str, code: ErrorCode | None
) -> None:
    """Every later claim gets the reply that was committed with the outcome."""
    async with worker(ledger_url) as ledger:
        claim = a_claim()
        claimed = await ledger.claim(claim)
        assert isinstance(claimed, Claimed)
        finish = failed(claim, code) if code else completed(claim)
        assert await ledger.finish(finish) is StepResult.APPLIED
        answer = await ledger.claim(a_claim(claim.request_id))
    assert answer == Finished(
        token=claim.token,
        status=finish.status,
        response=finish.response,
        session_id=claim.session_id,
        attempt=1,
        error_code=code,
        error=finish.error,
        detail=finish.detail,
        received_at=claimed.received_at,
        parked=False,
        settling=False,
    )


async def test_a_request_that_comes_too_late_is_claimed_as_expired(ledger_url: str) -> None:
    """It never gets an attempt: the claim leaves it pending, and the outcome moves it straight to failed."""
    async with worker(ledger_url) as ledger:
        claim = a_claim(time_to_live=0)
        answer = await ledger.claim(claim)
        assert isinstance(answer, Claimed)
        assert (answer.expired, answer.attempt) == (True, 0)
        assert await ledger.claim(claim) == answer
        assert await ledger.finish(failed(claim, ErrorCode.EXPIRED)) is StepResult.APPLIED
    found = await entry(ledger_url, claim.request_id)
    assert [each["status"] for each in found.history] == ["pending", "failed"]


async def test_a_request_that_expires_while_it_waits_is_claimed_as_expired(ledger_url: str) -> None:
    """Expiry is decided at the claim by the ledger's clock; the attempts made stay counted, and the claim
    tells how the last of them failed."""
    async with worker(ledger_url) as ledger:
        claim = await take(ledger, time_to_live=100)
        await ledger.postpone(postponed(claim, 60))
        await shift(ledger_url, "requests.next_attempt_at", -200, "true")
        await shift(ledger_url, "requests.expires_at", -200, "true")
        again = a_claim(claim.request_id)
        answer = await ledger.claim(again)
        assert isinstance(answer, Claimed)
        assert (answer.expired, answer.attempt) == (True, 1)
        assert (answer.error_code, answer.detail) == (ErrorCode.HANDLER_FAILED, "ValueError: no")
        assert await ledger.claim(again) == answer
        assert await ledger.finish(failed(again, ErrorCode.HANDLER_FAILED)) is StepResult.APPLIED
    found = await entry(ledger_url, claim.request_id)
    assert [each["status"] for each in found.history] == ["pending", "processing", "pending", "failed"]


async def test_an_expired_claim_that_was_left_lying_is_taken_by_the_next(ledger_url: str) -> None:
    """An expired entry stays pending, so a lost claimer holds up nobody; the earlier token is fenced."""
    async with worker(ledger_url) as ledger, worker(ledger_url) as other:
        first = await take(ledger, time_to_live=0)
        second = await take(other, first.request_id)
        assert await ledger.finish(failed(first, ErrorCode.EXPIRED)) is StepResult.FENCED
        assert await other.finish(failed(second, ErrorCode.EXPIRED)) is StepResult.APPLIED


async def test_the_time_to_live_is_kept_from_the_first_claim_only(ledger_url: str) -> None:
    """A redelivery does not shorten what the requester was promised."""
    async with worker(ledger_url) as ledger:
        claim = await take(ledger)
        await ledger.release(released(claim))
        answer = await ledger.claim(a_claim(claim.request_id, time_to_live=0))
    assert isinstance(answer, Claimed)
    assert not answer.expired


async def test_one_of_many_concurrent_claims_wins(ledger_url: str) -> None:
    """Forty claims of one id, from four workers: exactly one is Claimed, and one entry is there."""
    request_id = uuid4()
    async with (
        worker(ledger_url) as one,
        worker(ledger_url) as two,
        worker(ledger_url) as three,
        worker(ledger_url) as four,
    ):
        ledgers = [one, two, three, four] * 10
        answers = await asyncio.gather(*(ledger.claim(a_claim(request_id)) for ledger in ledgers))
    assert sum(isinstance(answer, Claimed) for answer in answers) == 1
    assert sum(isinstance(answer, NotNow) for answer in answers) == 39
    assert (await entry(ledger_url, request_id)).attempt == 1


async def test_two_deliveries_in_one_batch_are_one_claim(ledger_url: str) -> None:
    """Claims of one id that gather behind the same transaction are taken in order, one by one."""
    async with worker(ledger_url) as ledger:
        claims = [a_claim(), a_claim()]
        twins = [a_claim(claim.request_id) for claim in claims]
        answers = await asyncio.gather(*map(ledger.claim, claims + twins))
    assert [isinstance(answer, Claimed) for answer in answers] == [True, True, False, False]


async def test_more_claims_than_fit_into_a_batch_are_all_answered(ledger_url: str) -> None:
    """1,200 requests at once: each answer belongs to its own request."""
    async with worker(ledger_url) as ledger:
        claims = [a_claim() for _ in range(1200)]
        answers = await asyncio.gather(*map(ledger.claim, claims))
        steps = await asyncio.gather(*(ledger.finish(completed(claim)) for claim in claims))
    assert [getattr(answer, "session_id", None) for answer in answers] == [each.session_id for each in claims]
    assert set(steps) == {StepResult.APPLIED}
    assert (await sql(ledger_url, "SELECT count(*) FROM sessions")) == [(1200,)]


async def test_the_ledger_knows_what_was_claimed(ledger_url: str) -> None:
    """Whatever its status; looking writes nothing."""
    async with worker(ledger_url) as ledger:
        running, done = await take(ledger), await take(ledger)
        await ledger.finish(completed(done))
        before = [await entry(ledger_url, claim.request_id) for claim in (running, done)]
        assert [await ledger.knows(claim.request_id) for claim in (running, done, a_claim())] == [
            True,
            True,
            False,
        ]
        assert [await entry(ledger_url, claim.request_id) for claim in (running, done)] == before
