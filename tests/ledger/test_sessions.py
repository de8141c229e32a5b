"""Conformance: what a ledger tells of sessions, and what it counts for them."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pytest

from session_contracts import ListSessionsPayload
from session_worker.ledger.protocol import Reopened
from tests.support.ledger import (
    FINGERPRINT,
    a_claim,
    completed,
    entry,
    failed,
    postponed,
    shift,
    sql,
    take,
    worker,
)

if TYPE_CHECKING:
    from uuid import UUID

    from session_contracts import SessionPayload
    from session_worker.ledger.protocol import Claim, Ledger

ADA = "ada@example.com"


async def created(ledger: Ledger, metadata: str = "{}", **changes: Any) -> Claim:
    """Create a session, and return the claim that did."""
    claim = await take(ledger, **changes)
    await ledger.finish(completed(claim, session=metadata))
    return claim


async def named(ledger: Ledger, session: Claim, **changes: Any) -> Claim:
    """Carry out a request that names a session."""
    values = {"session_id": session.session_id, "operation": "extend_session"} | changes
    claim = await take(ledger, **values)
    await ledger.finish(completed(claim, session=None))
    return claim


async def get(ledger: Ledger, session: Claim) -> SessionPayload:
    found = await ledger.get_session(session.session_id or "", session.user_id)
    assert found is not None
    return found


async def listed(ledger: Ledger, user_id: str = ADA, **asked: Any) -> tuple[list[str], int]:
    """The ids of a page, and how many there are."""
    page = await ledger.list_sessions(ListSessionsPayload(**asked), user_id)
    return [each.session_id for each in page.sessions], page.total_count


async def test_a_session_is_what_its_creation_says(ledger_url: str) -> None:
    async with worker(ledger_url) as ledger:
        claim = await created(ledger, '{"colour": "red", "n": [1, null]}')
        found = await get(ledger, claim)
    made = await entry(ledger_url, claim.request_id)
    assert found.model_dump() == {
        "session_id": claim.session_id,
        "user_id": claim.user_id,
        "casefile_id": claim.casefile_id,
        "title": claim.title,
        "created_at": made.received_at.isoformat(timespec="milliseconds"),
        "updated_at": made.updated_at.isoformat(timespec="milliseconds"),
        "active": True,
        "request_count": 1,
        "event_count": len(made.history),
        "metadata": {"colour": "red", "n": [1, None]},
    }


@pytest.mark.parametrize("wrong", [{"session_id": "ts_261122_nobody"}, {"user_id": "eve@example.com"}])
async def test_a_session_of_somebody_else_looks_like_none(ledger_url: str, wrong: dict[str, str]) -> None:
    """Nor can it be closed, nor does it count what others do in its name."""
    async with worker(ledger_url) as ledger:
        claim = await created(ledger)
        asked = {"session_id": claim.session_id or "", "user_id": claim.user_id} | wrong
        assert await ledger.get_session(**asked) is None
        assert await ledger.close_session(**asked) is None
        before = await get(ledger, claim)
        await named(ledger, claim, **wrong)
        assert await get(ledger, claim) == before


async def test_a_request_that_names_a_session_counts_for_it_once_it_has_its_outcome(ledger_url: str) -> None:
    """However it ends, with every move that it made."""
    async with worker(ledger_url) as ledger:
        session = await created(ledger)
        claim = await take(ledger, session_id=session.session_id)
        assert (await get(ledger, session)).request_count == 1
        await ledger.postpone(postponed(claim))
        await shift(ledger_url, "requests.next_attempt_at", -100, f"request_id = '{claim.request_id}'")
        claim = await take(ledger, claim.request_id)
        assert (await get(ledger, session)).event_count == 3
        await ledger.finish(failed(claim))
        found = await get(ledger, session)
        assert (found.request_count, found.event_count) == (2, 3 + 5)
        last = (await entry(ledger_url, claim.request_id)).updated_at
        assert found.updated_at == last.isoformat(timespec="milliseconds")


async def redriven(ledger: Ledger, request_id: UUID, **changes: Any) -> None:
    assert await ledger.reopen(request_id, FINGERPRINT) is Reopened.REOPENED
    await ledger.finish(completed(await take(ledger, request_id), **changes))


async def test_a_request_that_is_redriven_counts_once_with_all_its_moves(ledger_url: str) -> None:
    async with worker(ledger_url) as ledger:
        session = await created(ledger)
        claim = await take(ledger, session_id=session.session_id)
        await ledger.finish(failed(claim))
        await redriven(ledger, claim.request_id, session=None)
        found = await get(ledger, session)
        assert (found.request_count, found.event_count) == (2, 3 + 6)


async def test_a_request_counts_when_it_is_redriven_after_the_session_that_it_named(ledger_url: str) -> None:
    """Before, there was none to count for: its id had only been reserved."""
    async with worker(ledger_url) as ledger:
        session = await take(ledger)
        claim = await take(ledger, session_id=session.session_id)
        await ledger.finish(failed(session))
        await ledger.finish(failed(claim))
        await redriven(ledger, session.request_id)
        found = await get(ledger, session)
        assert (found.request_count, found.event_count) == (1, 6)
        await redriven(ledger, claim.request_id, session=None)
        found = await get(ledger, session)
        assert (found.request_count, found.event_count) == (2, 6 + 6)


async def test_an_outcome_that_is_written_twice_counts_once(ledger_url: str) -> None:
    """As after a commit whose answer was lost."""
    async with worker(ledger_url) as ledger:
        session = await created(ledger)
        claim = await named(ledger, session)
        before = await get(ledger, session)
        await ledger.finish(completed(claim, session=None))
        assert await get(ledger, session) == before


async def test_what_requests_of_many_batches_name_is_counted_exactly(ledger_url: str) -> None:
    """By two workers whose batches share the sessions, each naming them in other orders, while others close
    them: no batch deadlocks with another."""
    async with worker(ledger_url, "one") as one, worker(ledger_url, "two") as two:
        sessions = [await created(one) for _ in range(20)]
        claims = [
            [a_claim(session_id=session.session_id) for _ in range(20) for session in order]
            for order in (sessions, sessions[::-1])
        ]
        for ledger, mine in zip((one, two), claims, strict=True):
            await asyncio.gather(*map(ledger.claim, mine))
        await asyncio.gather(
            *(
                ledger.finish(completed(claim, session=None))
                for ledger, mine in zip((one, two), claims, strict=True)
                for claim in mine
            ),
            *(
                ledger.close_session(session.session_id or "", ADA)
                for ledger, order in ((one, sessions[::-1]), (two, sessions))
                for session in order
            ),
        )
        for session in sessions:
            found = await get(one, session)
            assert (found.request_count, found.event_count) == (1 + 2 * 20, 3 * (1 + 2 * 20))
    if ledger_url.startswith("postgresql"):
        deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
        assert await sql(ledger_url, deadlocks) == [(0,)]


async def test_sessions_are_listed_newest_first_page_by_page(ledger_url: str) -> None:
    """Every page says how many there are in all."""
    async with worker(ledger_url) as ledger:
        sessions = [await created(ledger) for _ in range(5)]
        await created(ledger, user_id="eve@example.com")
        ids = [each.session_id for each in reversed(sessions)]
        assert await listed(ledger) == (ids, 5)
        assert await listed(ledger, limit=2) == (ids[:2], 5)
        assert await listed(ledger, limit=2, offset=4) == (ids[4:], 5)
        assert await listed(ledger, offset=5) == ([], 5)
        assert await listed(ledger, offset=2**53) == ([], 5)
        assert await listed(ledger, "nobody@example.com") == ([], 0)


async def test_a_list_leaves_out_what_is_not_asked_for(ledger_url: str) -> None:
    async with worker(ledger_url) as ledger:
        one = await created(ledger, casefile_id="cf_261122_one")
        two = await created(ledger, casefile_id=None, title=None)
        await ledger.close_session(one.session_id or "", ADA)
        assert await listed(ledger) == ([two.session_id], 1)
        assert await listed(ledger, active_only=False) == ([two.session_id, one.session_id], 2)
        assert await listed(ledger, casefile_id="cf_261122_one") == ([], 0)
        assert await listed(ledger, casefile_id="cf_261122_one", active_only=False) == ([one.session_id], 1)


async def test_a_list_shows_of_a_session_what_reading_it_shows(ledger_url: str) -> None:
    async with worker(ledger_url) as ledger:
        session = await created(ledger)
        await named(ledger, session)
        page = await ledger.list_sessions(ListSessionsPayload(), ADA)
        shown = (await get(ledger, session)).model_dump(exclude={"event_count", "metadata"})
        assert [each.model_dump() for each in page.sessions] == [shown]


async def test_lists_that_are_asked_for_at_a_time_are_told_apart(ledger_url: str) -> None:
    users = [f"user-{number}" for number in range(5)]
    async with worker(ledger_url) as ledger:
        sessions = {user: await created(ledger, user_id=user) for user in users[:3]}
        found = await asyncio.gather(*(listed(ledger, user) for user in users * 2))
    expected: list[tuple[list[str | None], int]] = [
        ([sessions[user].session_id], 1) if user in sessions else ([], 0) for user in users
    ]
    assert found == expected * 2


async def test_closing_says_what_there_was(ledger_url: str) -> None:
    """And that it was closed is seen by whoever reads it."""
    async with worker(ledger_url) as ledger:
        session = await created(ledger)
        await named(ledger, session)
        closed = await ledger.close_session(session.session_id or "", ADA)
        assert closed is not None
        found = await get(ledger, session)
        assert (found.active, found.request_count, found.event_count) == (False, 2, 6)
        assert (closed.session_id, closed.total_requests, closed.total_events) == (session.session_id, 2, 6)
        assert closed.duration_seconds is not None
        lasted = datetime.fromisoformat(closed.closed_at) - datetime.fromisoformat(found.created_at)
        assert closed.duration_seconds == pytest.approx(lasted.total_seconds(), abs=0.0015)


async def test_a_hundred_who_close_a_session_at_a_time_see_one_time(ledger_url: str) -> None:
    """Those of two workers, and whoever comes later."""
    async with worker(ledger_url, "one") as one, worker(ledger_url, "two") as two:
        session = await created(one)
        closed = await asyncio.gather(
            *(ledger.close_session(session.session_id or "", ADA) for _ in range(50) for ledger in (one, two))
        )
        later = await two.close_session(session.session_id or "", ADA)
        assert {each and each.closed_at for each in closed} == {later and later.closed_at}
        assert later is not None


async def test_a_closed_session_still_counts(ledger_url: str) -> None:
    """Whether a request may name it is the operation's matter."""
    async with worker(ledger_url) as ledger:
        session = await created(ledger)
        closed = await ledger.close_session(session.session_id or "", ADA)
        await named(ledger, session)
        again = await ledger.close_session(session.session_id or "", ADA)
        assert closed is not None
        assert again is not None
        assert (again.total_requests, again.closed_at) == (2, closed.closed_at)
