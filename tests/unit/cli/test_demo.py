"""The demo's arithmetic, and that it would notice a wrong count."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from session_client import RequestFailed
from session_contracts import (
    CreateSessionPayload,
    CreateSessionRequest,
    CreateSessionResponse,
    SessionCreatedPayload,
)
from session_worker.cli.demo import show
from session_worker.cli.demo.handler import handle
from session_worker.cli.demo.performance import _noted
from session_worker.cli.demo.plan import FAILS_TWICE, Plan
from session_worker.cli.demo.requester import RawAnswer
from session_worker.cli.demo.script import Script
from session_worker.operations.handler import Context
from tests.unit.cli.test_views import entry

if TYPE_CHECKING:
    from uuid import UUID

    from session_worker.ledger.reader import Entry, LedgerReader


@given(st.integers(50, 100_000))
def test_a_plan_adds_up(count: int) -> None:
    """Of every kind there is one at least, and every message is answered once."""
    plan = Plan(count)
    kinds = (plan.plain, plan.failing_twice, plan.thrice, plan.conflicts, plan.unreadable)

    assert min(kinds) >= 1
    assert sum(kinds) + 2 * plan.thrice == count
    assert sum(plan.expected().answered.values()) == count


@pytest.mark.parametrize(
    "break_it",
    [
        lambda counts: setattr(counts, "sessions", counts.sessions + 1),
        lambda counts: setattr(counts, "replayed", counts.replayed - 1),
        lambda counts: setattr(counts, "same_bytes", counts.same_bytes - 1),
        lambda counts: counts.count("failed: internal_error"),
    ],
    ids=["a session twice", "a duplicate done again", "other bytes", "an unexpected failure"],
)
def test_a_count_that_differs_is_seen(
    break_it: object, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert callable(break_it)
    plan = Plan(1000)
    script = Script(plan, *[None] * 3)  # type: ignore[arg-type]
    script.seconds, script.latencies = 1.0, [0.1]
    script.counts = plan.expected()
    assert show.results(plan.expected(), script)
    assert "differs" not in capsys.readouterr().out

    break_it(script.counts)

    assert not show.results(plan.expected(), script)
    assert "differs" in capsys.readouterr().out


async def test_the_handler_fails_the_first_two_attempts_of_marked_requests_only() -> None:
    async def outcome(title: str, attempt: int) -> str:
        request = CreateSessionRequest(user_id="ada", payload=CreateSessionPayload(title=title))
        context = Context("ts_260102_abc", uuid4(), attempt, datetime.now(UTC), None)
        try:
            await handle(request, context)
        except ConnectionError:
            return "failed"
        return "ok"

    assert [await outcome(FAILS_TWICE, attempt) for attempt in (1, 2, 3)] == ["failed", "failed", "ok"]
    assert await outcome("A session", 1) == "ok"


async def test_the_request_that_is_shown_is_read_again_until_its_reply_is_noted() -> None:
    """The worker notes it some time after the answer came; else the timeline would have none."""
    first = entry("host-1")
    readings = iter([replace(first, reply=None), first])

    async def get(request_id: UUID) -> Entry:
        assert request_id == first.request_id
        return next(readings)

    reader = cast("LedgerReader", SimpleNamespace(get=get))
    assert (await _noted(reader, replace(first, reply=None))).reply == "sent"
    assert next(readings, None) is None


async def test_the_bar_counts_the_answers_by_what_they_are() -> None:
    """A newcomer sees duplicates and broken messages among the answers while they come."""
    notes: list[str] = []
    progress = SimpleNamespace(answered=lambda note: notes.append(note))
    completed = CreateSessionResponse(
        request_id=uuid4(),
        payload=SessionCreatedPayload(session_id="ts_260102_abc", created_at="2026-01-02T12:00:00Z"),
        status="completed",
    )

    async def create(title: str, **_: object) -> CreateSessionResponse:
        if title == "Another session":
            raise RequestFailed(completed)
        return completed

    body = completed.model_dump_json().encode()
    answers = iter([RawAnswer(body, replayed=again) for again in (False, True, True)])

    async def ask(_: bytes) -> RawAnswer:
        return next(answers)

    client, raw = SimpleNamespace(create_session=create), SimpleNamespace(ask=ask)
    script = Script(Plan(50), cast("Any", client), cast("Any", raw), cast("Any", progress))
    for step in (script._plain, script._failing_twice, script._thrice, script._conflict):
        await step()

    assert notes[-1] == "2 completed, 2 duplicates, 1 retried, 1 refused"
