"""Conformance: an operator re-opens what failed, over both databases."""

from __future__ import annotations

import asyncio
from uuid import uuid4

import pytest

from session_contracts import ErrorCode, RequestStatus
from session_worker.ledger.batched import LAZY
from session_worker.ledger.protocol import Claimed, Finished, Mismatch, Reopened, StepResult
from tests.support.ledger import (
    FINGERPRINT,
    a_claim,
    check_moves,
    completed,
    entry,
    failed,
    postponed,
    shift,
    sql,
    take,
    worker,
)


async def test_a_re_opened_request_begins_a_fresh_round(ledger_url: str) -> None:
    """Attempts, crashes, time to live and the parked mark are gone; the reserved session id stays."""
    async with worker(ledger_url, "one") as ledger:
        first = await take(ledger, time_to_live=30)
        await ledger.finish(failed(first))
        await ledger.note_parked(first.request_id, first.token)
        await ledger.note_undeliverable(first.request_id, first.token)
        await sql(ledger_url, "UPDATE requests SET attempt = 6, crashes = 2")
        await shift(ledger_url, "requests.expires_at", -3600, "true")
        assert await ledger.reopen(first.request_id, FINGERPRINT) is Reopened.REOPENED
        found = await entry(ledger_url, first.request_id)
        again = a_claim(first.request_id)
        answer = await ledger.claim(again)
        assert isinstance(answer, Claimed)
        await ledger.finish(completed(again))
    assert (found.status, found.attempt, found.error_code, found.error, found.reply) == (
        *(RequestStatus.PENDING, 0),
        *(None, None, None),
    )
    assert (answer.session_id, answer.attempt, answer.crashes, answer.expired) == (
        first.session_id,
        1,
        0,
        False,
    )
    assert await sql(ledger_url, "SELECT session_id FROM sessions") == [(first.session_id,)]
    found = await entry(ledger_url, first.request_id)
    assert [(each["status"], each["attempt"], each["detail"]) for each in found.history] == [
        ("pending", 0, None),
        ("processing", 1, None),
        ("failed", 1, "ValueError: no"),
        ("pending", 0, "redriven by an operator"),
        ("processing", 1, None),
        ("completed", 1, None),
    ]
    check_moves(found)


async def test_what_fails_again_is_to_be_parked_again(ledger_url: str) -> None:
    """The new answer is the one that is served, and nobody takes the first parked copy for the second's."""
    async with worker(ledger_url) as ledger:
        first = await take(ledger)
        await ledger.finish(failed(first))
        await ledger.note_parked(first.request_id, first.token)
        await ledger.reopen(first.request_id, FINGERPRINT)
        again = await take(ledger, first.request_id)
        await ledger.finish(failed(again, ErrorCode.HANDLER_TIMEOUT))
        answer = await ledger.claim(a_claim(first.request_id))
    assert isinstance(answer, Finished)
    assert (answer.error_code, answer.parked) == (ErrorCode.HANDLER_TIMEOUT, False)


async def test_notes_of_the_old_round_say_nothing_of_the_new_one(ledger_url: str) -> None:
    """They may come late: the new round's answer is neither sent nor parked by them."""
    async with worker(ledger_url) as ledger:
        first = await take(ledger)
        await ledger.finish(failed(first))
        await ledger.reopen(first.request_id, FINGERPRINT)
        again = await take(ledger, first.request_id)
        await ledger.finish(failed(again))
        ledger.note_sent(first.request_id, first.token)
        await ledger.note_parked(first.request_id, first.token)
        await asyncio.sleep(2 * LAZY)
        await ledger.note_undeliverable(first.request_id, again.token)
        answer = await ledger.claim(a_claim(first.request_id))
    assert isinstance(answer, Finished)
    assert not answer.parked
    assert (await entry(ledger_url, first.request_id)).reply == "undeliverable"


async def test_another_request_under_the_same_id_re_opens_nothing(ledger_url: str) -> None:
    """The copy of a request that was refused for a conflict is not a copy of the one that has the id."""
    async with worker(ledger_url) as ledger:
        claim = await take(ledger)
        await ledger.finish(failed(claim))
        before = await entry(ledger_url, claim.request_id)
        assert await ledger.reopen(claim.request_id, b"\x02" * 32) is Reopened.MISMATCH
        assert await entry(ledger_url, claim.request_id) == before
        assert isinstance(await ledger.claim(a_claim(claim.request_id, fingerprint=b"\x02" * 32)), Mismatch)


async def test_what_waits_or_runs_is_open_already(ledger_url: str) -> None:
    """Nothing is taken from a holder, and a wait is not cut short."""
    async with worker(ledger_url) as ledger:
        running, waiting = await take(ledger), await take(ledger)
        await ledger.postpone(postponed(waiting))
        for claim in (running, waiting):
            before = await entry(ledger_url, claim.request_id)
            assert await ledger.reopen(claim.request_id, FINGERPRINT) is Reopened.OPEN
            assert await entry(ledger_url, claim.request_id) == before
        assert await ledger.finish(completed(running)) is StepResult.APPLIED


@pytest.mark.parametrize("code", [None, ErrorCode.REJECTED, ErrorCode.EXPIRED])
async def test_what_has_its_answer_stays_finished(ledger_url: str, code: ErrorCode | None) -> None:
    """Completed is final; so is a business answer, which was never meant for people."""
    async with worker(ledger_url) as ledger:
        claim = await take(ledger)
        await ledger.finish(completed(claim) if code is None else failed(claim, code))
        before = await entry(ledger_url, claim.request_id)
        assert await ledger.reopen(claim.request_id, FINGERPRINT) is Reopened.FINISHED
        assert await entry(ledger_url, claim.request_id) == before


async def test_a_request_the_ledger_never_heard_of_stays_unknown(ledger_url: str) -> None:
    async with worker(ledger_url) as ledger:
        assert await ledger.reopen(uuid4(), FINGERPRINT) is Reopened.UNKNOWN
    assert await sql(ledger_url, "SELECT count(*) FROM requests") == [(0,)]


async def test_late_steps_of_the_old_round_do_not_reach_into_the_new_one(ledger_url: str) -> None:
    """A worker that repeats its finish after a lost answer, or notes late what it parked, is fenced."""
    async with worker(ledger_url) as ledger:
        claim = await take(ledger)
        late = failed(claim)
        await ledger.finish(late)
        await ledger.reopen(claim.request_id, FINGERPRINT)
        before = await entry(ledger_url, claim.request_id)
        assert await ledger.finish(late) is StepResult.FENCED
        await ledger.note_parked(claim.request_id, claim.token)
        assert await entry(ledger_url, claim.request_id) == before
        again = await take(ledger, claim.request_id)
        await ledger.finish(failed(again))
        answer = await ledger.claim(a_claim(claim.request_id))
    assert isinstance(answer, Finished)
    assert not answer.parked


async def test_many_are_re_opened_together_and_each_once(ledger_url: str) -> None:
    """Two operators at the same time: of each request one of them opens the round."""
    async with worker(ledger_url) as one, worker(ledger_url) as two:
        claims = [await take(one) for _ in range(20)]
        await asyncio.gather(*(one.finish(failed(claim)) for claim in claims))
        answers = await asyncio.gather(
            *(ledger.reopen(claim.request_id, FINGERPRINT) for claim in claims for ledger in (one, two))
        )
    assert answers.count(Reopened.REOPENED) == 20
    assert answers.count(Reopened.OPEN) == 20
