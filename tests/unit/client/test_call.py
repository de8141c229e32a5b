"""The time a call gives to each try, and what it makes of a reply."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from client import RequestFailed
from client.call import Call
from contracts import CreateSessionPayload, CreateSessionRequest, CreateSessionResponse

REQUEST = CreateSessionRequest(user_id="ada", payload=CreateSessionPayload())


async def time_of_next_try(call: Call, *, interrupt: bool = False) -> float:
    """Seconds until the next try ended by itself, or would have."""
    loop = asyncio.get_running_loop()
    started = loop.time()
    with suppress(TimeoutError):
        async with call.one_try():
            call.limit()
            assert call._timer is not None
            ends_at = call._timer.when() or 0
            if interrupt:
                call.interrupt()
                call.limit(60)
            await call.wait_for_reply()
    return ends_at - started


async def test_each_try_that_times_out_doubles_the_time_of_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy worker must not get more copies the slower it is; the deadline bounds the last try."""
    monkeypatch.setattr("client.call.FIRST_TRY_SECONDS", 0.2)
    call = Call(REQUEST, timeout=1.3)
    times = [await time_of_next_try(call) for _ in range(3)]
    assert times[:2] == pytest.approx([0.2, 0.4], abs=0.15)
    assert times[2] < 0.75, "cut off by the deadline"
    assert call.is_overdue


async def test_an_interrupted_try_ends_at_once_and_costs_no_patience() -> None:
    """A lost connection says nothing about the worker; a limit set afterwards must not revive the try."""
    call = Call(REQUEST, timeout=60)
    async with asyncio.timeout(2):
        await time_of_next_try(call, interrupt=True)
        assert await time_of_next_try(call, interrupt=True) == pytest.approx(5, abs=0.1)


async def test_the_time_to_live_is_what_is_left_of_the_timeout() -> None:
    """In milliseconds, as text, never more than the caller gave."""
    expiration = Call(REQUEST, timeout=7).properties("replies").expiration
    assert isinstance(expiration, str)
    assert 6000 < int(expiration) <= 7000


@pytest.mark.parametrize(
    ("metadata", "code", "retryable"),
    [
        ({}, None, False),
        ({"error_code": "from_the_future", "retryable": True}, "from_the_future", True),
        ({"error_code": 7, "retryable": "yes"}, None, False),
    ],
)
def test_a_failed_response_needs_no_code_this_version_knows(
    metadata: dict[str, object], code: str | None, retryable: bool
) -> None:
    """A newer worker's codes pass through; anything else than the contract's types is ignored."""
    response = CreateSessionResponse.model_validate(
        {
            "request_id": REQUEST.request_id,
            "status": "failed",
            "payload": {"session_id": "ts_000000_none", "created_at": "2025-10-13T14:30:00Z"},
            "metadata": metadata,
        }
    )
    error = RequestFailed(response)
    assert (error.code, error.retryable) == (code, retryable)
    assert "no reason given" in str(error)
