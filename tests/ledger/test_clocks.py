"""Conformance: no wait is much longer than its configured maximum, whatever the ledger's clock did.

A clock that is put back is the same as all recorded times moving ahead of it, and that is what these tests do
to the ledger: ``step`` by so many seconds.
"""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest

from session_contracts import RequestStatus
from session_worker.ledger import open_reader
from session_worker.ledger.protocol import Claimed, Finished, NotNow, StepResult
from session_worker.ledger.registration import Registration, StandstillWatch
from tests.support.ledger import (
    a_claim,
    becomes,
    completed,
    entry,
    failed,
    postponed,
    sql,
    take,
    worker,
)

HOUR = 3600.0
BACK = pytest.mark.parametrize("back", [30.0, HOUR, 24 * HOUR])
TIMES = {
    "requests": ("received_at", "updated_at", "expires_at", "next_attempt_at", "finished_at", "parked_at"),
    "workers": ("steady_since", "renewed_at", "gone_at"),
}
KEYS = {"requests": "request_id", "workers": "worker_id"}


async def step(url: str, seconds: float) -> None:
    """Put the ledger's clock forward by ``seconds``, or back."""
    for table, columns in TIMES.items():
        if not url.startswith("sqlite"):
            moved = ", ".join(f"{column} = {column} - interval '1 s' * {seconds}" for column in columns)
            await sql(url, f"UPDATE {table} SET {moved}")
            continue
        for key, *times in await sql(url, f"SELECT {KEYS[table]}, {', '.join(columns)} FROM {table}"):
            moved = ", ".join(
                f"{column} = '{_moved(time, seconds)}'"
                for column, time in zip(columns, times, strict=True)
                if time is not None
            )
            await sql(url, f"UPDATE {table} SET {moved} WHERE {KEYS[table]} = '{key}'")


def _moved(time: str, seconds: float) -> str:
    return (datetime.fromisoformat(time) - timedelta(seconds=seconds)).isoformat(timespec="microseconds")


@BACK
async def test_a_retry_is_due_although_the_clock_was_put_back(ledger_url: str, back: float) -> None:
    """Its copy comes back when the broker's own clock says so; it does not go round for as long again."""
    async with worker(ledger_url) as ledger:
        claim = await take(ledger)
        await ledger.postpone(postponed(claim, 1))
        assert isinstance(await ledger.claim(a_claim(claim.request_id)), NotNow)
        await step(ledger_url, -back)
        answer = await ledger.claim(a_claim(claim.request_id))
        assert isinstance(answer, Claimed)
        assert (answer.attempt, answer.expired) == (2, False)
    history = (await entry(ledger_url, claim.request_id)).history
    assert [each["at"] for each in history] == sorted(each["at"] for each in history)


@BACK
async def test_the_retries_after_the_clock_was_put_back_wait_as_long_as_they_are_meant_to(
    ledger_url: str, back: float
) -> None:
    """The history does not go back, so the entry stays ahead of the clock; its due time does not."""
    async with worker(ledger_url) as ledger:
        claim = await take(ledger)
        await step(ledger_url, -back)
        assert await ledger.postpone(postponed(claim, 1, 5)) == 5
        found = await entry(ledger_url, claim.request_id)
        assert found.next_attempt_at is not None
        assert (found.next_attempt_at - datetime.now(found.next_attempt_at.tzinfo)).total_seconds() < 6


@BACK
async def test_nobody_waits_for_longer_than_a_requester_did_before_the_clock_was_put_back(
    ledger_url: str, back: float
) -> None:
    async with worker(ledger_url) as ledger:
        claim, hopeless = await take(ledger, time_to_live=20), await take(ledger, time_to_live=3)
        await step(ledger_url, -back)
        assert await ledger.postpone(postponed(claim, 1, 5, 30, 120)) == 5
        assert await ledger.postpone(postponed(hopeless, 30, 120)) is StepResult.OVERDUE


@BACK
async def test_a_holder_that_died_before_the_clock_was_put_back_is_found_to_be_gone(
    ledger_url: str, back: float
) -> None:
    """By whoever watches that its registration stands still, after its holder timeout and no later."""
    async with worker(ledger_url, "gone", holder_timeout=1000) as gone:
        claim = await take(gone)
        await sql(ledger_url, "UPDATE workers SET worker_id = 'dead'")  # no renewal finds it
        await sql(ledger_url, "UPDATE requests SET holder = 'dead'")
        await _promise(ledger_url, 1.0)
        await step(ledger_url, -back)
        async with worker(ledger_url, "heir", holder_timeout=1.5) as heir:
            answer = await heir.claim(a_claim(claim.request_id))
            assert isinstance(answer, NotNow)
            assert answer.running
            assert answer.wait <= 1.5, "nobody stays away for longer than it takes to find out"
            dead = "SELECT count(*) FROM workers WHERE worker_id = 'dead' AND gone_at < renewed_at"
            await becomes(ledger_url, dead, [(1,)])
            answer = await heir.claim(a_claim(claim.request_id))
            assert isinstance(answer, Claimed)
            assert (answer.attempt, answer.crashes) == (1, 1)


async def _promise(url: str, seconds: float) -> None:
    """Let the dead one have promised to renew itself within ``seconds``."""
    ((renewed_at,),) = await sql(url, "SELECT renewed_at FROM workers WHERE worker_id = 'dead'")
    if isinstance(renewed_at, str):
        renewed_at = datetime.fromisoformat(renewed_at)
    gone_at = (renewed_at + timedelta(seconds=seconds)).isoformat(timespec="microseconds")
    await sql(url, f"UPDATE workers SET gone_at = '{gone_at}' WHERE worker_id = 'dead'")


@pytest.mark.parametrize("seconds", [-HOUR, -5.0, 5.0, HOUR])
async def test_a_living_holder_is_not_taken_for_gone_when_the_clock_steps(
    ledger_url: str, seconds: float
) -> None:
    async with (
        worker(ledger_url, "living", holder_timeout=1.5) as living,
        worker(ledger_url, "other", holder_timeout=1.5, takeover_grace=None) as other,
    ):
        claim = await take(living)
        await step(ledger_url, seconds)
        for _ in range(20):
            answer = await other.claim(a_claim(claim.request_id))
            assert isinstance(answer, NotNow)
            assert answer.wait <= 1.5
        renewed = f"SELECT count(*) FROM workers WHERE {_BOTH_RENEWED}"
        await becomes(ledger_url, renewed.format(now=_now(ledger_url)), [(2,)])
        assert isinstance(await other.claim(a_claim(claim.request_id)), NotNow)
        assert await living.finish(completed(claim)) is StepResult.APPLIED


_BOTH_RENEWED = "gone_at > {now} AND renewed_at <= {now} AND steady_since <= {now}"


def _now(url: str) -> str:
    return "strftime('%Y-%m-%dT%H:%M:%f', 'now') || '999+00:00'" if url.startswith("sqlite") else "now()"


async def test_the_grace_is_over_in_time_although_the_clock_was_put_back(ledger_url: str) -> None:
    """It began before that, in the clock's future."""
    async with worker(ledger_url, "heir", holder_timeout=1.5, takeover_grace=None) as heir:
        async with worker(ledger_url, "gone") as gone:
            claim = await take(gone)
        await step(ledger_url, -HOUR)
        answer = await heir.claim(a_claim(claim.request_id))
        assert isinstance(answer, NotNow)
        assert answer.wait <= 1.5
        steady = f"SELECT count(*) FROM workers WHERE steady_since <= {_now(ledger_url)}"
        await becomes(ledger_url, steady, [(1,)])
        assert isinstance(await heir.claim(a_claim(claim.request_id)), NotNow)


@BACK
async def test_workers_that_died_before_the_clock_was_put_back_are_not_counted(
    ledger_url: str, back: float
) -> None:
    """And what was received before is not the newest."""
    async with worker(ledger_url, "dead") as dead:
        await take(dead)
        await sql(ledger_url, "UPDATE workers SET worker_id = 'nobody'")
        await step(ledger_url, -back)
        async with worker(ledger_url, "living") as living:
            fresh = await take(living)
            reader = open_reader(ledger_url)
            await reader.open()
            try:
                recent = await reader.recent(since=60, limit=10)
            finally:
                await reader.close()
    assert recent.workers == ["living"]
    assert [each.request_id for each in recent.newest] == [fresh.request_id]


@BACK
async def test_an_outcome_is_not_settling_for_as_long_as_the_clock_was_put_back(
    ledger_url: str, back: float
) -> None:
    async with worker(ledger_url, "author") as author, worker(ledger_url, "reader") as other:
        claim = await take(author)
        await author.finish(failed(claim))
        await step(ledger_url, -back)
        answer = await other.claim(a_claim(claim.request_id))
    assert isinstance(answer, Finished)
    assert not answer.settling


@BACK
async def test_what_was_received_before_the_clock_was_put_back_ends_as_ever(
    ledger_url: str, back: float
) -> None:
    async with worker(ledger_url) as ledger:
        claim = await take(ledger)
        await step(ledger_url, -back)
        assert await ledger.finish(completed(claim)) is StepResult.APPLIED
    found = await entry(ledger_url, claim.request_id)
    assert found.status is RequestStatus.COMPLETED
    assert found.finished_at is not None
    assert found.finished_at >= found.received_at


# -------------------------------------------------------------------------------------------- the watch


def _watch() -> StandstillWatch:
    return StandstillWatch(Registration("me", holder_timeout=10.0, takeover_grace=10.0))


def test_a_worker_that_renews_itself_is_never_found() -> None:
    watch = _watch()
    assert not any(watch.still([("a", renewal, 10.0)], float(renewal)) for renewal in range(100))


def test_a_worker_that_stands_still_is_found_after_its_own_holder_timeout() -> None:
    watch = _watch()
    found = [now for now in range(0, 60, 3) if watch.still([("a", 1, 15.0), ("b", now, 15.0)], float(now))]
    assert found[0] == 18


def test_after_a_pause_of_the_watcher_nobody_counts_as_standing_still() -> None:
    """The others may have been held up as it was."""
    watch = _watch()
    assert [watch.still([("a", 1, 10.0)], now) for now in (0.0, 3.0, 6.0, 9.0)] == [[]] * 4
    assert [watch.still([("a", 1, 10.0)], now) for now in (100.0, 103.0, 106.0, 109.0)] == [[]] * 4
    assert watch.still([("a", 1, 10.0)], 112.0) == ["a"]


def test_a_worker_that_comes_back_is_watched_anew() -> None:
    watch = _watch()
    renewals = {0.0: 1, 4.0: 1, 8.0: 2, 12.0: 2, 16.0: 2}
    assert not any(watch.still([("a", renewal, 10.0)], now) for now, renewal in renewals.items())
