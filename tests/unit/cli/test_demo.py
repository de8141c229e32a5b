"""The demo's arithmetic, and that it would notice a wrong count."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts import CreateSessionPayload, CreateSessionRequest
from worker.cli.demo import show
from worker.cli.demo.handler import handle
from worker.cli.demo.plan import FAILS_TWICE, Plan
from worker.cli.demo.script import Script
from worker.handlers import Context


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
        context = Context("ts_260102_abc", uuid4(), attempt, datetime.now(UTC))
        try:
            await handle(request, context)
        except ConnectionError:
            return "failed"
        return "ok"

    assert [await outcome(FAILS_TWICE, attempt) for attempt in (1, 2, 3)] == ["failed", "failed", "ok"]
    assert await outcome("A session", 1) == "ok"
