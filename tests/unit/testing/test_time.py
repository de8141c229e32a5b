"""How time passes in a user's test: between attempts, over handlers that hang, and across crashes."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from session_client import RequestFailed, RequestTimedOut
from session_contracts import (
    BaseRequest,
    ErrorCode,
    RequestStatus,
)
from session_worker import App, Context, RetryLater
from session_worker.testing import TestWorker
from tests.unit.testing.playing import (
    EXTEND,
    FIVE,
    THREE_CALLS,
    TWICE,
    Extend,
    Extended,
    Script,
    an_extension,
    app,
    extend,
    nothing_to_play,
)

if TYPE_CHECKING:
    from collections.abc import Callable


async def test_a_call_lets_time_pass_until_its_last_attempt() -> None:
    """Half a minute of retries takes no time, and the ledger has each attempt with its own time."""
    script = Script(*THREE_CALLS * 2)
    began = time.monotonic()
    async with TestWorker(app, resources=script) as worker:
        response = await worker.client.call(EXTEND, FIVE, user_id="ada")
        entry = worker.entry(response.request_id)
    assert time.monotonic() - began < 3
    assert response.payload.attempt == 3
    assert len(script.calls) == 7
    assert entry is not None
    assert (entry.status, entry.attempt) == (RequestStatus.COMPLETED, 3)
    assert [each["status"] for each in entry.history] == ["pending", "processing"] * 3 + ["completed"]
    assert (entry.updated_at - entry.received_at).total_seconds() >= 6  # the delays of 1 s and 5 s


async def test_when_attempts_are_spent_the_call_fails_and_a_dead_letter_says_why() -> None:
    script = Script()
    script.always = ValueError("no connection")
    async with TestWorker(app, resources=script, max_attempts=2) as worker:
        with pytest.raises(RequestFailed, match="failed 2 time") as failed:
            await worker.client.call(EXTEND, FIVE, user_id="ada")
        (letter,) = worker.dead_letters
    assert (failed.value.code, failed.value.retryable) == (ErrorCode.HANDLER_FAILED, True)
    assert letter.request_id == failed.value.response.request_id
    assert (letter.code, letter.message, letter.attempts) == (
        "handler_failed",
        "ValueError: no connection",
        2,
    )
    assert "in extend" in (letter.stacktrace or "")


async def test_what_is_sent_waits_for_its_next_attempt_until_time_is_moved_on() -> None:
    async with TestWorker(app, resources=Script(*THREE_CALLS)) as worker:
        request = an_extension()
        sent = await worker.send(EXTEND, request)
        assert sent.replies == []
        with pytest.raises(LookupError, match=r"await worker\.advance"):
            _ = sent.response
        entry = worker.entry(request.request_id)
        assert entry is not None
        assert entry.status is RequestStatus.PENDING
        assert entry.next_attempt_at is not None
        await worker.advance(0.5)
        assert sent.replies == []
        await worker.advance(0.5)
        assert sent.response.payload == Extended(minutes=5, attempt=2)


async def test_a_handler_may_say_when_it_wants_to_be_asked_again() -> None:
    async with TestWorker(app, resources=Script(RetryLater("not yet", after=90))) as worker:
        sent = await worker.send(EXTEND, an_extension())
        await worker.advance(89)
        assert sent.replies == []
        await worker.advance(61)
        assert sent.response.payload == Extended(minutes=5, attempt=2)


async def test_a_request_that_comes_too_late_expires_unhandled() -> None:
    script = Script()
    async with TestWorker(app, resources=script) as worker:
        sent = await worker.send(EXTEND, an_extension(), expiration="0")
        assert sent.response.metadata["error_code"] == "expired"
    assert script.calls == []


async def test_no_attempt_begins_after_the_requester_has_stopped_waiting() -> None:
    """There is no time for one in a minute: the failure of the first is the answer."""
    async with TestWorker(app, resources=Script(RetryLater(after=60))) as worker:
        with pytest.raises(RequestFailed) as failed:
            await worker.client.call(EXTEND, FIVE, user_id="ada", timeout=0.9)
    assert failed.value.code == ErrorCode.HANDLER_FAILED


async def test_a_hanging_handler_is_cut_off_as_time_passes(caplog: pytest.LogCaptureFixture) -> None:
    """The log says so, for those whose handler only takes long."""
    script = Script()
    script.hang = True
    async with TestWorker(app, resources=script, max_attempts=2, hang_after=0.05) as worker:
        began = worker.now
        with pytest.raises(RequestFailed) as failed:
            await worker.client.call(EXTEND, FIVE, user_id="ada", timeout=300)
        assert 61 <= (worker.now - began).total_seconds() < 70  # two attempts of 30 s, and 1 s between them
    assert failed.value.code == ErrorCode.HANDLER_TIMEOUT
    assert "give TestWorker a larger hang_after" in caplog.text


async def test_a_handler_is_not_cut_off_before_its_time() -> None:
    script = Script()
    script.hang = True
    async with TestWorker(app, resources=script, hang_after=0.05) as worker:
        request = an_extension()
        await worker.send(EXTEND, request)
        await worker.advance(29)
        entry = worker.entry(request.request_id)
        assert entry is not None
        assert (entry.status, entry.attempt) == (RequestStatus.PROCESSING, 1)
        script.hang = False
        await worker.advance(2)
        entry = worker.entry(request.request_id)
        assert entry is not None
        assert (entry.status, entry.attempt) == (RequestStatus.COMPLETED, 2)


async def test_a_real_time_limit_holds_too() -> None:
    """A handler that hangs for longer than its limit is cut off, however long the test would wait."""
    script = Script()
    script.hang = True
    async with TestWorker(
        app, resources=script, max_attempts=1, handler_timeout=0.05, hang_after=60
    ) as worker:
        with pytest.raises(RequestFailed) as failed:
            await worker.client.call(EXTEND, FIVE, user_id="ada")
    assert failed.value.code == ErrorCode.HANDLER_TIMEOUT


async def test_what_still_runs_at_the_end_is_cancelled() -> None:
    """The fixture that finds tasks which still run after a test finds none."""
    script = Script()
    script.hang = True
    async with TestWorker(app, resources=script, hang_after=0.05) as worker:
        request = an_extension()
        sent = await worker.send(EXTEND, request)
        entry = worker.entry(request.request_id)
        assert entry is not None
        assert entry.status is RequestStatus.PROCESSING
    assert sent.replies == []


async def begun(script: Script, calls: int = 1) -> None:
    """Wait until the handler was called so many times."""
    async with asyncio.timeout(5):
        while len(script.calls) < calls:
            await asyncio.sleep(0)


async def test_after_a_crash_the_handler_is_called_again_for_the_same_request() -> None:
    """It gets the same id as its key, the crash counts no attempt, and the ledger tells of it."""
    script = Script()
    script.hang = True
    async with TestWorker(app, resources=script) as worker:
        calling = asyncio.create_task(worker.client.call(EXTEND, FIVE, user_id="ada"))
        await begun(script)
        script.hang = False
        await worker.crash()
        response = await calling
        entry = worker.entry(response.request_id)
    assert (response.payload.attempt, response.metadata["worker_id"]) == (1, "test-worker-2")
    assert [context.request_id for context in script.calls] == [response.request_id] * 2
    assert entry is not None
    assert "its worker test-worker is gone" in [each["detail"] for each in entry.history]


async def test_a_request_that_ends_worker_after_worker_is_answered_and_parked() -> None:
    script = Script()
    script.hang = True
    async with TestWorker(app, resources=script, max_crashes=2) as worker:
        calling = asyncio.create_task(worker.client.call(EXTEND, FIVE, user_id="ada"))
        for calls in (1, 2):
            await begun(script, calls)
            await worker.crash()
        with pytest.raises(RequestFailed) as failed:
            await calling
        (letter,) = worker.dead_letters
    assert failed.value.code == ErrorCode.CRASHED_WORKER
    assert letter.code == "crashed_worker"
    assert len(script.calls) == 2


async def test_what_was_settled_before_a_crash_stays_so() -> None:
    script = Script()
    async with TestWorker(app, resources=script) as worker:
        request = an_extension()
        first = await worker.send(EXTEND, request)
        await worker.crash()
        second = await worker.send(EXTEND, request)
        assert second.replies[0].replayed
        assert second.replies[0].body == first.replies[0].body
    assert (len(script.calls), len(first.replies)) == (1, 1)


async def test_a_handler_may_call_another_operation() -> None:
    """Neither waits for the other, and no time passes while it gets its answer."""
    script = Script()
    outer = App(lifespan=nothing_to_play)
    outer.operation(EXTEND)(extend)
    began = time.monotonic()

    @outer.operation(TWICE)
    async def twice(request: BaseRequest[Extend], context: Context[Script]) -> Extended:
        response = await worker.client.call(EXTEND, request.payload, user_id=request.user_id)
        return Extended(minutes=2 * response.payload.minutes, attempt=context.attempt)

    async with TestWorker(outer, resources=script) as worker:
        response = await worker.client.call(TWICE, FIVE, user_id="ada")
        assert (worker.now - datetime.now(UTC)).total_seconds() < 0.1
    assert response.payload == Extended(minutes=10, attempt=1)
    assert time.monotonic() - began < 1


async def test_a_call_that_gets_no_reply_ends_at_its_timeout() -> None:
    """A handler that hangs for longer than the caller waits."""
    script = Script()
    script.hang = True
    async with TestWorker(app, resources=script, hang_after=0.05) as worker:
        with pytest.raises(RequestTimedOut):
            await worker.client.call(EXTEND, FIVE, user_id="ada", timeout=5)


@pytest.mark.parametrize("count", [1, 25])
async def test_a_test_of_a_handler_takes_milliseconds(
    count: int, record_property: Callable[[str, object], None]
) -> None:
    began = time.perf_counter()
    for _ in range(count):
        async with TestWorker(app, resources=Script()) as worker:
            await worker.client.call(EXTEND, FIVE, user_id="ada")
    each = (time.perf_counter() - began) / count
    record_property("seconds", each)
    assert each < 0.25
