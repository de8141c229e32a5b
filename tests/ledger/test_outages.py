"""The ledger away: calls wait, find out what became of a lost commit, and go on; over both databases."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from typing import Any
from uuid import uuid4

import pytest

from session_contracts import RequestStatus
from session_worker.ledger.postgresql.pool import ReconnectingConnection
from session_worker.ledger.protocol import Claimed, Ledger, LedgerError, StepResult
from session_worker.ledger.sqlite.ledger import SQLiteLedger
from tests.support.ledger import (
    DEADLINE,
    a_claim,
    becomes,
    completed,
    entry,
    failed,
    postponed,
    released,
    sql,
    take,
    worker,
)
from tests.support.waiting import eventually


def lose_next_answer(ledger: Ledger, monkeypatch: pytest.MonkeyPatch, *, committed: bool) -> None:
    """Break the connection at the next transaction: before its commit, or between commit and answer."""
    armed = iter([True])
    if isinstance(ledger, SQLiteLedger):
        writer = ledger._writer
        commit = writer._commit

        def broken_commit() -> None:
            broken = next(armed, False)
            if committed or not broken:
                commit()
            if broken:
                raise sqlite3.OperationalError("disk I/O error")

        monkeypatch.setattr(writer, "_commit", broken_commit)
        return
    fetch = ReconnectingConnection._fetch

    async def broken_fetch(line: ReconnectingConnection, sql: str, values: tuple[Any, ...]) -> Any:
        broken = next(armed, False)
        records = await fetch(line, sql, values) if committed or not broken else None
        if broken:
            if line._connection is not None:
                line._connection.terminate()
            line._connection = None
            raise ConnectionResetError
        return records

    monkeypatch.setattr(ReconnectingConnection, "_fetch", broken_fetch)


LOST = pytest.mark.parametrize("committed", [False, True], ids=["before the commit", "after the commit"])


@LOST
async def test_a_lost_claim_is_found_out(
    ledger_url: str, monkeypatch: pytest.MonkeyPatch, *, committed: bool
) -> None:
    """The caller is answered as if nothing had been, and the attempt is counted once."""
    async with worker(ledger_url) as ledger:
        changes: list[bool] = []
        ledger.availability.watch(changes.append)
        claims = [a_claim() for _ in range(3)]
        claims.append(a_claim(time_to_live=0))
        lose_next_answer(ledger, monkeypatch, committed=committed)
        answers = await asyncio.gather(*map(ledger.claim, claims))
        assert [(each.attempt, each.expired) for each in answers if isinstance(each, Claimed)] == [
            *[(1, False)] * 3,
            (0, True),
        ]
        await eventually(lambda: changes == [False, True])
    for claim in claims[:3]:
        assert [each["status"] for each in (await entry(ledger_url, claim.request_id)).history] == [
            "pending",
            "processing",
        ]


@LOST
async def test_a_lost_outcome_is_found_out(
    ledger_url: str, monkeypatch: pytest.MonkeyPatch, *, committed: bool
) -> None:
    """One session, one outcome, APPLIED: whether the lost commit had gone through or not."""
    async with worker(ledger_url) as ledger:
        good, bad = await take(ledger), await take(ledger)
        lose_next_answer(ledger, monkeypatch, committed=committed)
        steps = await asyncio.gather(ledger.finish(completed(good)), ledger.finish(failed(bad)))
    assert set(steps) == {StepResult.APPLIED}
    assert await sql(ledger_url, "SELECT count(*) FROM sessions") == [(1,)]
    for claim, status in ((good, RequestStatus.COMPLETED), (bad, RequestStatus.FAILED)):
        found = await entry(ledger_url, claim.request_id)
        assert found.status is status
        assert len(found.history) == 3


@LOST
async def test_a_lost_postponement_or_release_is_found_out(
    ledger_url: str, monkeypatch: pytest.MonkeyPatch, *, committed: bool
) -> None:
    """The attempt is taken back once, the due time is set once, and the delay is the one that was chosen."""
    async with worker(ledger_url) as ledger:
        one, two = await take(ledger, time_to_live=20), await take(ledger)
        with monkeypatch.context() as patch:
            lose_next_answer(ledger, patch, committed=committed)
            assert await ledger.postpone(postponed(one, 1, 5, 30)) == 5
        lose_next_answer(ledger, monkeypatch, committed=committed)
        assert await ledger.release(released(two)) is StepResult.APPLIED
    assert [(await entry(ledger_url, each.request_id)).attempt for each in (one, two)] == [1, 0]
    assert [len((await entry(ledger_url, each.request_id)).history) for each in (one, two)] == [3, 3]


async def test_a_lost_takeover_counts_one_crash(ledger_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The token tells that the request had been taken over by this very claim."""
    async with worker(ledger_url) as heir:
        async with worker(ledger_url) as gone:
            claim = await take(gone)
        lose_next_answer(heir, monkeypatch, committed=True)
        answer = await heir.claim(a_claim(claim.request_id))
    assert isinstance(answer, Claimed)
    assert (answer.attempt, answer.crashes) == (1, 1)


async def test_a_cancelled_caller_breaks_no_batch_and_holds_nothing(ledger_url: str) -> None:
    """The others of its batch are answered, and what was taken for it is handed back uncounted."""
    async with worker(ledger_url) as ledger:
        claims = [a_claim() for _ in range(20)]
        tasks = [asyncio.create_task(ledger.claim(claim)) for claim in claims]
        for _ in range(3):
            await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(answer, asyncio.CancelledError) for answer in answers[::2])
        assert all(isinstance(answer, Claimed) for answer in answers[1::2])
        await becomes(
            ledger_url,
            "SELECT status, attempt, count(*) FROM requests GROUP BY status, attempt ORDER BY status",
            [("pending", 0, 10), ("processing", 1, 10)],
        )


async def test_what_was_claimed_while_closing_for_a_cancelled_caller_is_handed_back(ledger_url: str) -> None:
    """Shutdown cancels whoever waits; the last batch leaves nothing behind that looks like a crash."""
    async with worker(ledger_url) as ledger:
        tasks = [asyncio.create_task(ledger.claim(a_claim())) for _ in range(20)]
        for _ in range(3):
            await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
    assert await sql(ledger_url, "SELECT DISTINCT status, attempt FROM requests") == [("pending", 0)]


async def test_what_waits_when_the_ledger_is_closed_while_it_is_away_is_told(
    ledger_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """close returns soon, callers get LedgerError, and no thread is left."""

    def unreachable(*_: object) -> None:
        raise (
            ConnectionRefusedError
            if ledger_url.startswith("postgresql")
            else sqlite3.OperationalError("gone")
        )

    async with asyncio.timeout(DEADLINE):
        async with worker(ledger_url) as ledger:
            with monkeypatch.context() as patch:
                if isinstance(ledger, SQLiteLedger):
                    patch.setattr(ledger._writer, "_commit", unreachable)
                else:
                    patch.setattr(ReconnectingConnection, "_fetch", unreachable)
                tasks = [asyncio.create_task(ledger.claim(a_claim())) for _ in range(700)]
                ledger.note_sent(uuid4(), uuid4())
                await eventually(lambda: not ledger.availability.up)
                assert ledger.availability.reason
                await ledger.close()
            answers = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(answer, LedgerError) for answer in answers)
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("ledger")]
    with pytest.raises(LedgerError):
        await ledger.claim(a_claim())
