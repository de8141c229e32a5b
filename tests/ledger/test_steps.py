"""Conformance: how a claimed request ends or waits, over both databases."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from session_contracts import ErrorCode, RequestStatus
from session_worker.ledger.protocol import Claimed, Finish, Finished, Postpone, Release, StepResult
from session_worker.telemetry.events import LedgerCommitted
from tests.support.ledger import (
    FINGERPRINT,
    NO_FILES,
    a_claim,
    becomes,
    bury,
    check_moves,
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

if TYPE_CHECKING:
    from collections.abc import Callable

    from session_worker.ledger.protocol import Claim, Ledger


async def do(ledger: Ledger, step: Finish | Postpone | Release) -> int | StepResult:
    match step:
        case Finish():
            return await ledger.finish(step)
        case Postpone():
            return await ledger.postpone(step)
        case Release():
            return await ledger.release(step)


STEPS = pytest.mark.parametrize("step_for", [completed, failed, postponed, released])


async def test_completing_creates_the_session_with_the_time_of_the_first_claim(ledger_url: str) -> None:
    """The session row and the outcome with its reply come with one step."""
    async with worker(ledger_url) as ledger:
        claim = await take(ledger)
        assert await sql(ledger_url, "SELECT count(*) FROM sessions") == [(0,)]
        assert await ledger.finish(completed(claim)) is StepResult.APPLIED
    found = await entry(ledger_url, claim.request_id)
    assert found.status is RequestStatus.COMPLETED
    assert found.finished_at is not None
    assert found.finished_at >= found.received_at
    ((session_id, request_id, user_id, casefile_id, title, created_at),) = await sql(
        ledger_url, "SELECT session_id, request_id, user_id, casefile_id, title, created_at FROM sessions"
    )
    assert (session_id, str(request_id)) == (claim.session_id, str(claim.request_id))
    assert (user_id, casefile_id, title) == (claim.user_id, claim.casefile_id, claim.title)
    if isinstance(created_at, str):
        created_at = datetime.fromisoformat(created_at)
    assert created_at == found.received_at


async def test_failing_creates_no_session_and_keeps_the_reason(ledger_url: str) -> None:
    """Code and sentence are for everyone; the detail stands in the history."""
    async with worker(ledger_url) as ledger:
        claim = await take(ledger)
        assert await ledger.finish(failed(claim, ErrorCode.HANDLER_TIMEOUT)) is StepResult.APPLIED
    found = await entry(ledger_url, claim.request_id)
    assert (found.status, found.error_code, found.error) == (
        RequestStatus.FAILED,
        ErrorCode.HANDLER_TIMEOUT,
        "It failed.",
    )
    assert found.history[-1]["detail"] == "ValueError: no"
    assert await sql(ledger_url, "SELECT count(*) FROM sessions") == [(0,)]


@STEPS
async def test_a_step_repeated_under_its_token_is_applied_once(
    ledger_url: str, step_for: Callable[[Claim], Finish | Postpone | Release]
) -> None:
    """After a commit of unknown outcome the step is sent again: it answers the same and writes nothing."""
    async with worker(ledger_url) as ledger:
        step = step_for(await take(ledger))
        answer = 60 if isinstance(step, Postpone) else StepResult.APPLIED
        assert await do(ledger, step) == answer
        before = await entry(ledger_url, step.request_id)
        assert await do(ledger, step) == answer
    assert await entry(ledger_url, step.request_id) == before


@STEPS
async def test_a_step_of_a_fenced_holder_is_dropped(
    ledger_url: str, step_for: Callable[[Claim], Finish | Postpone | Release]
) -> None:
    """Once another worker has taken the request over, the first one's late result changes nothing."""
    async with worker(ledger_url, "zombie") as zombie, worker(ledger_url) as heir:
        claim = await take(zombie)
        await bury(ledger_url, "zombie")
        await take(heir, claim.request_id)
        before = await entry(ledger_url, claim.request_id)
        assert await do(zombie, step_for(claim)) is StepResult.FENCED
    assert await entry(ledger_url, claim.request_id) == before


@STEPS
async def test_a_step_for_an_unknown_request_is_fenced(
    ledger_url: str, step_for: Callable[[Claim], Finish | Postpone | Release]
) -> None:
    """Nothing was claimed, so nothing is written."""
    async with worker(ledger_url) as ledger:
        assert await do(ledger, step_for(a_claim())) is StepResult.FENCED
    assert await sql(ledger_url, "SELECT count(*) FROM requests") == [(0,)]


async def test_an_outcome_is_final_even_under_its_own_token(ledger_url: str) -> None:
    """completed → failed, failed → completed and final → pending are no moves."""
    async with worker(ledger_url) as ledger:
        good, bad = await take(ledger), await take(ledger)
        await ledger.finish(completed(good))
        await ledger.finish(failed(bad))
        for step in (failed(good), completed(bad), postponed(good), released(bad)):
            assert await do(ledger, step) is StepResult.FENCED
    assert (await entry(ledger_url, good.request_id)).status is RequestStatus.COMPLETED
    assert (await entry(ledger_url, bad.request_id)).status is RequestStatus.FAILED


async def test_an_expired_request_cannot_complete(ledger_url: str) -> None:
    """pending → completed is no move: nobody gets a session for which nobody waits."""
    async with worker(ledger_url) as ledger:
        claim = await take(ledger, time_to_live=0)
        assert await ledger.finish(completed(claim)) is StepResult.FENCED
    assert await sql(ledger_url, "SELECT count(*) FROM sessions") == [(0,)]


async def test_a_postponed_request_shows_its_attempt_its_error_and_its_time(ledger_url: str) -> None:
    """The due time is the commit's own time plus the delay, by the ledger's clock."""
    async with worker(ledger_url) as ledger:
        claim = await take(ledger)
        before = datetime.now(UTC)
        assert await ledger.postpone(postponed(claim, 60)) == 60
        after = datetime.now(UTC)
    found = await entry(ledger_url, claim.request_id)
    assert (found.status, found.attempt, found.error_code) == (
        RequestStatus.PENDING,
        1,
        ErrorCode.HANDLER_FAILED,
    )
    assert found.next_attempt_at is not None
    assert before <= found.next_attempt_at - timedelta(seconds=60) <= after
    assert found.history[-1]["detail"] == "ValueError: no"


async def test_a_postponed_request_forgets_its_error_when_it_completes(ledger_url: str) -> None:
    """The code of a failed attempt is not the code of the outcome."""
    async with worker(ledger_url) as ledger:
        claim = await take(ledger)
        await ledger.postpone(postponed(claim, 60))
        await shift(ledger_url, "requests.next_attempt_at", -60, "true")
        await ledger.finish(completed(await take(ledger, claim.request_id)))
    assert (await entry(ledger_url, claim.request_id)).error_code is None


async def test_a_request_is_not_postponed_beyond_its_time_to_live(ledger_url: str) -> None:
    """It would only be due when nobody waits any more: nothing is written, and it can be answered at once."""
    async with worker(ledger_url) as ledger:
        claim = await take(ledger, time_to_live=30)
        before = await entry(ledger_url, claim.request_id)
        assert await ledger.postpone(postponed(claim, 31, 120)) is StepResult.OVERDUE
        assert await entry(ledger_url, claim.request_id) == before


@pytest.mark.parametrize(
    ("time_to_live", "delays", "chosen"),
    [
        (None, (1, 5, 30), 30),
        (100, (1, 5, 30), 30),
        (100, (1, 5, 30, 120), 30),
        (20, (1, 5, 30, 120), 5),
        (4, (1, 5, 30), 1),
        (30, (7,), 7),
    ],
)
async def test_a_request_waits_for_the_longest_delay_that_its_requester_waits_for(
    ledger_url: str, time_to_live: float | None, delays: tuple[int, ...], chosen: int
) -> None:
    """A shorter last wait rather than none; each request of a batch has the one that fits it."""
    async with worker(ledger_url) as ledger:
        claim, other = await take(ledger, time_to_live=time_to_live), await take(ledger, time_to_live=3)
        steps = postponed(claim, *delays), postponed(other, 1, 2, 600, 6000)
        assert await asyncio.gather(*map(ledger.postpone, steps)) == [chosen, 2]
    found = await entry(ledger_url, claim.request_id)
    assert found.next_attempt_at is not None
    assert (found.next_attempt_at - found.updated_at).total_seconds() == pytest.approx(chosen)


async def test_releasing_takes_the_attempt_back_and_makes_it_claimable_at_once(ledger_url: str) -> None:
    """Shutdown spends no attempt."""
    async with worker(ledger_url) as ledger:
        claim = await take(ledger)
        assert await ledger.release(released(claim)) is StepResult.APPLIED
        found = await entry(ledger_url, claim.request_id)
        assert (found.status, found.attempt) == (RequestStatus.PENDING, 0)
        answer = await ledger.claim(a_claim(claim.request_id))
    assert isinstance(answer, Claimed)
    assert answer.attempt == 1


async def test_sent_is_noted_soon_without_being_awaited(ledger_url: str) -> None:
    """The note reaches the tables by itself while the ledger stays open."""
    async with worker(ledger_url) as ledger:
        claim = await take(ledger)
        await ledger.finish(completed(claim))
        ledger.note_sent(claim.request_id, claim.token)
        await becomes(ledger_url, "SELECT reply FROM requests", [("sent",)])


async def test_sent_is_noted_before_the_ledger_closes(ledger_url: str) -> None:
    """Closing writes what is still noted."""
    async with worker(ledger_url) as ledger:
        claim = await take(ledger)
        await ledger.finish(completed(claim))
        ledger.note_sent(claim.request_id, claim.token)
    assert (await entry(ledger_url, claim.request_id)).reply == "sent"


async def test_a_reply_that_is_sent_again_and_again_is_written_once(ledger_url: str) -> None:
    """A requester that repeats itself costs no transaction each time, and no new version of the row."""
    committed: list[LedgerCommitted] = []

    def emit(event: object) -> None:
        if isinstance(event, LedgerCommitted):
            committed.append(event)

    async with worker(ledger_url) as ledger:
        claim = await take(ledger)
        await ledger.finish(completed(claim))
        ledger.note_sent(claim.request_id, claim.token)
    (before,) = await sql(ledger_url, "SELECT updated_at, reply FROM requests")
    async with worker(ledger_url, emit=emit) as ledger:
        for _ in range(100):
            ledger.note_sent(claim.request_id, claim.token)
    assert len(committed) == (ledger_url not in NO_FILES)
    assert await sql(ledger_url, "SELECT updated_at, reply FROM requests") == [before]
    assert before[1] == "sent"


async def test_a_reply_that_was_sent_once_stays_sent(ledger_url: str) -> None:
    """A later copy that nobody took does not undo it; the other way round it does."""
    async with worker(ledger_url) as ledger:
        one, two = await take(ledger), await take(ledger)
        for claim in (one, two):
            await ledger.finish(completed(claim))
        ledger.note_sent(one.request_id, one.token)
        await ledger.note_undeliverable(two.request_id, two.token)
        assert (await entry(ledger_url, two.request_id)).reply == "undeliverable"
        ledger.note_sent(two.request_id, two.token)
    async with worker(ledger_url) as ledger:
        await ledger.note_undeliverable(one.request_id, one.token)
    assert (await entry(ledger_url, one.request_id)).reply == "sent"
    assert (await entry(ledger_url, two.request_id)).reply == "sent"


async def test_a_parked_request_says_so(ledger_url: str) -> None:
    """Who finds the finished entry later knows that its copy is on the parking lot."""
    async with worker(ledger_url) as ledger:
        claim = await take(ledger)
        await ledger.finish(failed(claim))
        await ledger.note_parked(claim.request_id, claim.token)
        answer = await ledger.claim(a_claim(claim.request_id))
    assert isinstance(answer, Finished)
    assert answer.parked


async def test_the_history_of_a_long_life_has_legal_moves_in_order(ledger_url: str) -> None:
    """Postponed, released, taken over from a gone worker and completed: every step is one of the moves."""
    async with worker(ledger_url, "one") as one, worker(ledger_url, "two") as two:
        claim = await take(one)
        await one.postpone(postponed(claim, 60))
        await shift(ledger_url, "requests.next_attempt_at", -60, "true")
        await one.release(released(await take(one, claim.request_id)))
        await take(one, claim.request_id)
        await bury(ledger_url, "one")
        last = await take(two, claim.request_id)
        await two.finish(completed(last))
    found = await entry(ledger_url, claim.request_id)
    check_moves(found)
    assert [(each["status"], each["attempt"], each["worker_id"]) for each in found.history] == [
        ("pending", 0, "one"),
        ("processing", 1, "one"),
        ("pending", 1, "one"),
        ("processing", 2, "one"),
        ("pending", 1, "one"),
        ("processing", 2, "one"),
        ("pending", 2, "two"),
        ("processing", 2, "two"),
        ("completed", 2, "two"),
    ]
    assert found.history[6]["detail"] == "its worker one is gone"


async def test_history_never_goes_back_with_the_clock(ledger_url: str) -> None:
    """The clock was put back after the outcome; what is noted and re-opened then is not dated before it."""
    async with worker(ledger_url) as ledger:
        claim = await take(ledger)
        await ledger.finish(failed(claim))
        await shift(ledger_url, "requests.updated_at", 60, "true")
        before = (await entry(ledger_url, claim.request_id)).updated_at
        await ledger.note_parked(claim.request_id, claim.token)
        assert (await entry(ledger_url, claim.request_id)).updated_at == before
        await ledger.reopen(claim.request_id, FINGERPRINT)
    assert datetime.fromisoformat((await entry(ledger_url, claim.request_id)).history[-1]["at"]) == before
