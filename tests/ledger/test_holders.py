"""Conformance: when a worker is taken for gone, and what becomes of what it held, over both databases."""

from __future__ import annotations

import asyncio
import time
from uuid import UUID

import asyncpg
import pytest

from session_contracts import RequestStatus
from session_worker.ledger.postgresql import ledger as postgresql_ledger
from session_worker.ledger.protocol import Claimed, Finished, NotNow, StepResult, Suspect
from tests.support.ledger import (
    DEADLINE,
    a_claim,
    becomes,
    bury,
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


async def test_a_holder_that_stopped_renewing_is_gone_after_its_timeout(ledger_url: str) -> None:
    """Its row is still there; its time has passed by the ledger's clock."""
    async with worker(ledger_url, "gone", holder_timeout=1000) as gone, worker(ledger_url) as heir:
        claim = await take(gone)
        await shift(ledger_url, "workers.gone_at", -990, "worker_id = 'gone'")
        answer = await heir.claim(a_claim(claim.request_id))
        assert isinstance(answer, NotNow)
        assert 5 < answer.wait <= 10
        await shift(ledger_url, "workers.gone_at", -10, "worker_id = 'gone'")
        assert isinstance(await heir.claim(a_claim(claim.request_id)), Claimed)


async def test_a_repeated_takeover_counts_one_crash(ledger_url: str) -> None:
    """After a commit of unknown outcome the same claim is answered alike."""
    async with worker(ledger_url, "gone") as gone, worker(ledger_url) as heir:
        claim = await take(gone)
        await bury(ledger_url, "gone")
        again = a_claim(claim.request_id)
        assert await heir.claim(again) == await heir.claim(again)
    assert await sql(ledger_url, "SELECT crashes FROM requests") == [(1,)]


async def test_a_clean_exit_leaves_the_register_at_once(ledger_url: str) -> None:
    """Nobody has to wait for a worker that said goodbye."""
    async with worker(ledger_url, "leaving") as ledger:
        claim = await take(ledger)
        assert await sql(ledger_url, "SELECT worker_id FROM workers") == [("leaving",)]
    assert await sql(ledger_url, "SELECT worker_id FROM workers") == []
    async with worker(ledger_url) as heir:
        await take(heir, claim.request_id)


async def test_nothing_is_taken_over_right_after_the_start(ledger_url: str) -> None:
    """After an outage of the whole system the others get one holder timeout to renew themselves first."""
    async with (
        worker(ledger_url, "gone") as gone,
        worker(ledger_url, "new", holder_timeout=1000, takeover_grace=None) as new,
    ):
        claim = await take(gone)
        await bury(ledger_url, "gone")
        answer = await new.claim(a_claim(claim.request_id))
        assert isinstance(answer, NotNow)
        assert answer.running
        assert 990 < answer.wait <= 1000
        await shift(ledger_url, "workers.steady_since", -1000, "worker_id = 'new'")
        assert isinstance(await new.claim(a_claim(claim.request_id)), Claimed)


async def test_a_worker_that_was_away_itself_declares_nobody_gone(ledger_url: str) -> None:
    """Its own registration has lapsed, so it was stopped or saw an outage: the others may be alive."""
    async with (
        worker(ledger_url, "other") as other,
        worker(ledger_url, "me", holder_timeout=1000, takeover_grace=1000) as me,
    ):
        claim = await take(other)
        await bury(ledger_url, "other")
        await shift(ledger_url, "workers.steady_since", -5000, "worker_id = 'me'")
        await shift(ledger_url, "workers.gone_at", -5000, "worker_id = 'me'")
        answer = await me.claim(a_claim(claim.request_id))
    assert isinstance(answer, NotNow)
    assert (await entry(ledger_url, claim.request_id)).history[-1]["worker_id"] == "other"


async def test_a_lapsed_registration_starts_the_grace_anew(ledger_url: str) -> None:
    """The renewal after a gap makes the worker wait one whole grace again."""
    async with worker(ledger_url, "me", holder_timeout=0.5, takeover_grace=1000):
        await shift(ledger_url, "workers.steady_since", -5000, "worker_id = 'me'")
        await shift(ledger_url, "workers.gone_at", -5000, "worker_id = 'me'")
        renewed = "SELECT count(*) FROM workers WHERE gone_at > renewed_at AND steady_since = renewed_at"
        await becomes(ledger_url, renewed, [(1,)])


@pytest.mark.parametrize("waiting", [False, True])
async def test_a_request_that_saw_two_workers_die_is_claimed_alone(ledger_url: str, *, waiting: bool) -> None:
    """Suspect writes nothing; a claim without a limit takes it. Waiting for an attempt does not clear it."""
    async with worker(ledger_url, "heir") as heir:
        request_id = None
        for name in ("first", "second"):
            async with worker(ledger_url, name) as ledger:
                claim = await take(ledger, request_id)
                request_id = claim.request_id
        if waiting:
            claim = await take(heir, request_id, suspect_after=None)
            await heir.release(released(claim))
        before = await entry(ledger_url, claim.request_id)
        assert await heir.claim(a_claim(request_id)) == Suspect()
        assert await entry(ledger_url, claim.request_id) == before
        answer = await heir.claim(a_claim(request_id, suspect_after=None))
    assert isinstance(answer, Claimed)
    assert answer.crashes == 2


async def test_a_gone_holders_expired_request_is_claimed_as_expired(ledger_url: str) -> None:
    """The crash is counted, the way to failed stays legal: processing → pending → failed."""
    async with worker(ledger_url) as heir:
        async with worker(ledger_url) as gone:
            claim = await take(gone, time_to_live=100)
        await shift(ledger_url, "requests.expires_at", -200, "true")
        again = a_claim(claim.request_id)
        answer = await heir.claim(again)
        assert isinstance(answer, Claimed)
        assert (answer.expired, answer.attempt, answer.crashes) == (True, 1, 1)
        assert await heir.claim(again) == answer
        await heir.finish(failed(again))
    found = await entry(ledger_url, claim.request_id)
    assert [each["status"] for each in found.history] == ["pending", "processing", "pending", "failed"]


async def test_a_postponed_request_needs_no_holder(ledger_url: str) -> None:
    """That its last worker is gone is no crash of a request that was waiting."""
    async with worker(ledger_url) as heir:
        async with worker(ledger_url) as gone:
            claim = await take(gone)
            await gone.postpone(postponed(claim, 60))
        assert isinstance(await heir.claim(a_claim(claim.request_id)), NotNow)
        await shift(ledger_url, "requests.next_attempt_at", -60, "true")
        answer = await heir.claim(a_claim(claim.request_id))
    assert isinstance(answer, Claimed)
    assert (answer.attempt, answer.crashes) == (2, 0)


async def test_an_outcome_is_settling_while_its_worker_may_still_reply(ledger_url: str) -> None:
    """Fresh, and recorded by another worker that is alive: only then."""
    async with worker(ledger_url, "author") as author, worker(ledger_url, "reader") as reader:
        claim = await take(author)
        await author.finish(failed(claim))

        async def settling(ledger: object) -> bool:
            answer = await ledger.claim(a_claim(claim.request_id))  # type: ignore[attr-defined]
            assert isinstance(answer, Finished)
            return answer.settling

        assert await settling(reader)
        assert not await settling(author)
        await bury(ledger_url, "author")
        assert not await settling(reader)
    async with worker(ledger_url, "author"), worker(ledger_url, "reader") as reader:
        assert await settling(reader)
        await shift(ledger_url, "requests.finished_at", -6, "true")
        assert not await settling(reader)


async def test_a_blocked_event_loop_does_not_look_like_death(ledger_url: str) -> None:
    """The registration is renewed from another thread while a handler blocks the loop for far too long."""
    async with worker(ledger_url, "busy", holder_timeout=0.5) as busy:
        claim = await take(busy)
        time.sleep(1.5)  # the blocked loop is the point
        async with worker(ledger_url) as other:
            answer = await other.claim(a_claim(claim.request_id))
        assert isinstance(answer, NotNow)
        assert answer.running
        assert await busy.finish(completed(claim))


async def test_workers_gone_for_more_than_a_day_are_swept_at_the_next_start(ledger_url: str) -> None:
    """A crash leaves its row behind; rows do not pile up."""
    async with (
        worker(ledger_url, "old", holder_timeout=1000),
        worker(ledger_url, "recent", holder_timeout=1000),
    ):
        await shift(ledger_url, "workers.gone_at", -100_000, "worker_id = 'old'")
        await shift(ledger_url, "workers.gone_at", -80_000, "worker_id = 'recent'")
        async with worker(ledger_url, "new"):
            names = await sql(ledger_url, "SELECT worker_id FROM workers ORDER BY worker_id")
    assert names == [("new",), ("recent",)]


async def test_a_crowd_takes_over_from_a_gone_holder_without_a_crash_too_many(ledger_url: str) -> None:
    """Three workers find the same 50 orphans at the same time: each is taken over once."""
    async with worker(ledger_url, "gone") as gone:
        claims = await asyncio.gather(*(take(gone) for _ in range(50)))
    async with worker(ledger_url) as one, worker(ledger_url) as two, worker(ledger_url) as three:
        answers = await asyncio.gather(
            *(ledger.claim(a_claim(claim.request_id)) for ledger in (one, two, three) for claim in claims)
        )
    assert sum(isinstance(answer, Claimed) for answer in answers) == 50
    assert await sql(ledger_url, "SELECT DISTINCT crashes, attempt FROM requests") == [(1, 1)]
    assert (await entry(ledger_url, claims[0].request_id)).status is RequestStatus.PROCESSING


async def test_postgresql_takes_nothing_from_a_worker_that_came_while_it_waited(
    postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A claim that waits for a lock still sees the register as it was before: whoever registered and took a
    request meanwhile is no gone holder."""
    monkeypatch.setattr(postgresql_ledger, "LOCK_TIMEOUT", DEADLINE)
    first, second = UUID(int=1), UUID(int=2)
    async with worker(postgresql_url, "waiting") as waiting:
        for request_id in (first, second):
            await waiting.release(released(await take(waiting, request_id)))
        blocker = await asyncpg.connect(postgresql_url)
        try:
            async with blocker.transaction():
                await blocker.execute("SELECT FROM requests WHERE request_id = $1 FOR UPDATE", first)
                claims = asyncio.gather(waiting.claim(a_claim(first)), waiting.claim(a_claim(second)))
                blocked = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
                await becomes(postgresql_url, f"{blocked} AND datname = current_database()", [(1,)])
                async with worker(postgresql_url, "newcomer") as newcomer:
                    claim = await take(newcomer, second)
                    await blocker.execute("ROLLBACK; BEGIN")
                    answers = await asyncio.wait_for(claims, DEADLINE)
                    assert await newcomer.finish(completed(claim)) is StepResult.APPLIED
        finally:
            await blocker.close()
    assert isinstance(answers[0], Claimed)
    assert isinstance(answers[1], NotNow)
