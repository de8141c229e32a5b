"""Conformance: the ledger as an operator asks it, over both databases."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import pytest

from session_contracts import ErrorCode, RequestStatus
from session_worker.ledger import LedgerError, open_reader, upgrade
from session_worker.ledger.protocol import Claimed
from session_worker.ledger.reader import Entry
from session_worker.ledger.sqlite.database import path_of
from session_worker.ledger.sqlite.reader import SQLiteReader
from tests.support.ledger import (
    DEADLINE,
    FINGERPRINT,
    a_claim,
    bury,
    completed,
    failed,
    postponed,
    released,
    shift,
    take,
    worker,
)
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from pathlib import Path
    from uuid import UUID


async def test_an_entry_is_read_whole(ledger_url: str) -> None:
    """Every field that ``status --json`` prints, with times in UTC."""
    async with worker(ledger_url) as ledger:
        claim = await take(ledger)
        await ledger.finish(failed(claim, ErrorCode.HANDLER_FAILED))
        await ledger.note_undeliverable(claim.request_id, claim.token)
        reader = open_reader(ledger_url)
        await reader.open()
        found = await reader.get(claim.request_id)
        await reader.close()
    assert isinstance(found, Entry)
    assert (found.request_id, found.status, found.attempt) == (claim.request_id, RequestStatus.FAILED, 1)
    assert (found.session_id, found.user_id, found.casefile_id) == (
        claim.session_id,
        claim.user_id,
        claim.casefile_id,
    )
    assert (found.error_code, found.error, found.reply) == ("handler_failed", "It failed.", "undeliverable")
    assert found.finished_at is not None
    assert found.next_attempt_at is None
    assert found.received_at <= found.finished_at <= found.updated_at <= datetime.now(UTC)
    assert [set(each) for each in found.history] == [{"status", "at", "attempt", "worker_id", "detail"}] * 3


async def test_an_entry_that_came_too_late_is_among_those_that_wait(ledger_url: str) -> None:
    """Its worker died before it could record that; nobody holds it, and people find it."""
    async with worker(ledger_url) as ledger:
        claim = a_claim(time_to_live=0)
        assert isinstance(await ledger.claim(claim), Claimed)
        again = await take(ledger, time_to_live=0.001)
        await ledger.release(released(again))
        await asyncio.sleep(0.01)
        answer = await ledger.claim(a_claim(again.request_id))
        assert isinstance(answer, Claimed)
        assert answer.expired
        reader = open_reader(ledger_url)
        await reader.open()
        found = await reader.find(status=RequestStatus.PENDING)
        await reader.close()
    assert {each.request_id for each in found} == {claim.request_id, again.request_id}


async def test_a_question_that_nobody_waits_for_ends_with_its_reader(sqlite_url: str) -> None:
    """Closing the file under a running query would end the process."""
    await upgrade(sqlite_url)
    reader = SQLiteReader(path_of(sqlite_url))
    await reader.open()
    endless = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
    question = asyncio.create_task(reader._ask(lambda database: database.execute(endless).fetchone()))
    await eventually(reader._file._lock.locked)
    question.cancel()
    async with asyncio.timeout(DEADLINE):
        await reader.close()


async def test_entries_are_found_by_status_and_time_the_newest_first(ledger_url: str) -> None:
    """Five requests: filters, order and limit."""
    async with worker(ledger_url) as ledger:
        claims = [await take(ledger) for _ in range(5)]
        await ledger.finish(completed(claims[0]))
        await ledger.finish(completed(claims[1]))
        await ledger.finish(failed(claims[2]))
        await ledger.postpone(postponed(claims[3]))
        await shift(ledger_url, "requests.received_at", -7200, f"request_id = '{claims[0].request_id}'")
        reader = open_reader(ledger_url)
        await reader.open()
        try:
            ids = [claim.request_id for claim in claims]
            assert [each.request_id for each in await reader.find()] == ids[:0:-1] + ids[:1]
            assert [each.request_id for each in await reader.find(limit=2)] == ids[:2:-1]
            assert [each.request_id for each in await reader.find(since=3600)] == ids[:0:-1]
            for status, expected in (
                (RequestStatus.COMPLETED, [ids[1], ids[0]]),
                (RequestStatus.FAILED, [ids[2]]),
                (RequestStatus.PENDING, [ids[3]]),
                (RequestStatus.PROCESSING, [ids[4]]),
            ):
                assert [each.request_id for each in await reader.find(status=status)] == expected
            assert [
                each.request_id for each in await reader.find(status=RequestStatus.COMPLETED, since=60)
            ] == [ids[1]]
            assert await reader.count_sessions() == 2
            assert await reader.get(uuid4()) is None
        finally:
            await reader.close()


async def test_entries_are_found_by_user_error_code_operation_and_undeliverable_reply(
    ledger_url: str,
) -> None:
    """Each filter alone and together; a value is a value, whatever is in it."""
    strange = "o'hara; DROP TABLE requests --"
    async with worker(ledger_url) as ledger:
        ada = [await take(ledger) for _ in range(3)]
        other = await take(ledger, user_id=strange)
        await ledger.finish(completed(ada[0]))
        await ledger.finish(failed(ada[1], ErrorCode.REJECTED))
        await ledger.postpone(postponed(ada[2]))
        await ledger.finish(failed(other, ErrorCode.HANDLER_FAILED))
        await ledger.note_undeliverable(ada[1].request_id, ada[1].token)
        await ledger.note_undeliverable(other.request_id, other.token)
        reader = open_reader(ledger_url)
        await reader.open()

        async def found(**wanted: Any) -> list[UUID]:
            return [each.request_id for each in await reader.find(**wanted)]

        try:
            assert await found(user_id="ada@example.com") == [each.request_id for each in reversed(ada)]
            assert await found(user_id=strange) == [other.request_id]
            assert await found(user_id="ada") == []
            assert await found(error_code="rejected") == [ada[1].request_id]
            assert await found(error_code="handler_failed") == [other.request_id, ada[2].request_id]
            assert await found(operation="create_session", user_id=strange) == [other.request_id]
            assert await found(operation="close_session") == []
            assert await found(undeliverable=True) == [other.request_id, ada[1].request_id]
            assert await found(undeliverable=True, limit=1) == [other.request_id]
            assert await found(
                status=RequestStatus.FAILED,
                since=3600,
                user_id=strange,
                error_code="handler_failed",
                undeliverable=True,
            ) == [other.request_id]
            assert await found(user_id=strange, error_code="rejected") == []
        finally:
            await reader.close()


async def test_an_entry_is_found_by_the_session_that_it_created(ledger_url: str) -> None:
    """An id that was only reserved is none of a session."""
    async with worker(ledger_url) as ledger:
        done, running = await take(ledger), await take(ledger)
        assert done.session_id
        assert running.session_id
        await ledger.finish(completed(done))
        reader = open_reader(ledger_url)
        await reader.open()
        try:
            found = await reader.get_by_session(done.session_id)
            assert found is not None
            assert (found.request_id, found.session_id) == (done.request_id, done.session_id)
            assert await reader.get_by_session(running.session_id) is None
        finally:
            await reader.close()


async def test_a_look_sees_current_activity(ledger_url: str) -> None:
    """Each status, what it took, who is alive; nothing older than asked for, and no more than the limit."""
    async with worker(ledger_url, "one") as ledger, worker(ledger_url, "gone"):
        old, done, bad, late, running = [await take(ledger) for _ in range(5)]
        await ledger.finish(failed(old))
        await shift(ledger_url, "requests.received_at", -7200, f"request_id = '{old.request_id}'")
        await ledger.finish(completed(done))
        await shift(ledger_url, "requests.received_at", -30, f"request_id = '{done.request_id}'")
        await ledger.finish(failed(bad, ErrorCode.REJECTED))
        await ledger.postpone(postponed(late))
        await bury(ledger_url, "gone")
        reader = open_reader(ledger_url)
        await reader.open()
        try:
            found = await reader.recent(since=3600, limit=10)
            shorter = await reader.recent(since=3600, limit=1)
        finally:
            await reader.close()
    assert [(each.request_id, each.status, each.error_code) for each in found.newest] == [
        (running.request_id, RequestStatus.PROCESSING, None),
        (late.request_id, RequestStatus.PENDING, "handler_failed"),
        (bad.request_id, RequestStatus.FAILED, "rejected"),
        (done.request_id, RequestStatus.COMPLETED, None),
    ]
    assert [each.request_id for each in found.troubled] == [late.request_id, bad.request_id]
    assert [each.took is not None for each in found.newest] == [False, False, True, True]
    assert found.newest[3].took is not None
    assert 30 <= found.newest[3].took <= found.newest[3].age < 60
    assert (found.waiting, list(found.workers)) == (1, ["one"])
    assert [each.request_id for each in shorter.newest] == [running.request_id]
    assert [each.request_id for each in shorter.troubled] == [late.request_id]


async def test_a_look_tells_a_request_that_was_redriven(ledger_url: str) -> None:
    """From one that only failed on the way, or whose handler speaks of a redrive."""
    async with worker(ledger_url) as ledger:
        dead, late = [await take(ledger) for _ in range(2)]
        await ledger.finish(failed(dead))
        await ledger.reopen(dead.request_id, FINGERPRINT)
        await ledger.postpone(replace(postponed(late), detail='"redriven by an operator"'))
        reader = open_reader(ledger_url)
        await reader.open()
        try:
            found = await reader.recent(since=3600, limit=10)
        finally:
            await reader.close()
    assert {each.request_id: each.redriven for each in found.newest} == {
        dead.request_id: True,
        late.request_id: False,
    }


async def test_questions_may_be_asked_at_the_same_time(ledger_url: str) -> None:
    """A reader takes its questions one after the other."""
    async with worker(ledger_url) as ledger:
        claims = [await take(ledger) for _ in range(10)]
        reader = open_reader(ledger_url)
        await reader.open()
        found = await asyncio.gather(*(reader.get(claim.request_id) for claim in claims))
        await reader.close()
    assert [each and each.request_id for each in found] == [claim.request_id for claim in claims]


async def test_reading_creates_no_file(tmp_path: Path) -> None:
    """A mistyped name is a sentence, not an empty ledger."""
    reader = open_reader(f"sqlite:///{tmp_path}/ledger.db")
    with pytest.raises(LedgerError, match="there is no ledger file"):
        await reader.open()
    assert list(tmp_path.iterdir()) == []


async def test_a_reader_cannot_write(sqlite_url: str) -> None:
    """Its connection is read-only: an operator's question changes nothing."""
    async with worker(sqlite_url):
        reader = open_reader(sqlite_url)
        await reader.open()
        try:
            with pytest.raises(LedgerError, match="cannot be written"):
                await reader._ask(lambda database: database.execute("DELETE FROM workers"))  # type: ignore[attr-defined]
        finally:
            await reader.close()
