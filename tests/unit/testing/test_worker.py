"""What users can play with ``TestWorker``: every end of a request, and the time between its attempts."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import pytest
from pydantic import BaseModel, Field

from session_client import ClientClosed, RequestFailed, RequestNotRouted, RequestTimedOut
from session_contracts import (
    CREATE_SESSION,
    BaseRequest,
    CreateSessionPayload,
    CreateSessionRequest,
    ErrorCode,
    Operation,
    RequestStatus,
)
from session_worker import App, Context, Rejected, RetryLater
from session_worker.testing import TestWorker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable


class Extend(BaseModel):
    minutes: int = Field(ge=1)


class Extended(BaseModel):
    minutes: int
    attempt: int


EXTEND = Operation("extend_session", Extend, Extended)
LOOK = Operation("look_up", Extend, Extended)
TWICE = Operation("twice", Extend, Extended)


class Script:
    """The resources of the app under test: what its handler is to do, call by call, and what it was given."""

    def __init__(self, *steps: Exception | None) -> None:
        self.steps = list(steps)
        self.always: Exception | None = None
        self.calls: list[Context[Script]] = []
        self.hang = False


@asynccontextmanager
async def nothing_to_play() -> AsyncIterator[Script]:
    yield Script()


app = App(lifespan=nothing_to_play)


@app.operation(EXTEND)
async def extend(request: BaseRequest[Extend], context: Context[Script]) -> Extended:
    script = context.resources
    script.calls.append(context)
    if script.hang:
        await asyncio.Event().wait()
    error = script.steps.pop(0) if script.steps else script.always
    if error is not None:
        raise error
    return Extended(minutes=request.payload.minutes, attempt=context.attempt)


@app.operation(LOOK, effects="none")
def look(request: BaseRequest[Extend], context: Context[Script]) -> Extended:
    context.resources.calls.append(context)
    return Extended(minutes=request.payload.minutes, attempt=context.attempt)


def an_extension(**fields: Any) -> BaseRequest[Extend]:
    return EXTEND.request_model(
        **{"user_id": "ada", "operation": "extend_session", "payload": Extend(minutes=5)} | fields
    )


FIVE = Extend(minutes=5)
THREE_CALLS: list[Exception | None] = [ValueError("no connection")] * 3
"""One failed attempt: its call, and the two immediate retries."""


async def test_a_call_is_answered_by_the_handler() -> None:
    async with TestWorker(app, resources=Script()) as worker:
        response = await worker.client.call(EXTEND, FIVE, user_id="ada")
    assert response.payload == Extended(minutes=5, attempt=1)
    assert response.metadata["worker_id"] == "test-worker"


async def test_the_lifespan_is_entered_and_left_around_all_requests() -> None:
    """As in a worker; with resources given, it is not."""
    told: list[str] = []

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[Script]:
        told.append("entered")
        yield Script()
        told.append("left")

    lively: App[Script] = App(lifespan=lifespan)
    lively.operation(EXTEND)(extend)
    async with TestWorker(lively) as worker:
        await worker.client.call(EXTEND, FIVE, user_id="ada")
        assert told == ["entered"]
    assert told == ["entered", "left"]
    async with TestWorker(lively, resources=Script()) as worker:
        await worker.client.call(EXTEND, FIVE, user_id="ada")
    assert told == ["entered", "left"]


async def test_a_lifespan_that_fails_says_so() -> None:
    async def no_database() -> None:
        raise OSError("no database")

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        await no_database()
        yield

    with pytest.raises(OSError, match="no database"):
        async with TestWorker(App(lifespan=lifespan)):
            pass


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


async def test_a_request_that_comes_twice_has_one_effect_and_the_same_bytes_for_both() -> None:
    script = Script()
    async with TestWorker(app, resources=script) as worker:
        request = an_extension()
        first, second = await worker.send(EXTEND, request), await worker.send(EXTEND, request)
        again = await worker.client.call(EXTEND, FIVE, user_id="ada", request_id=request.request_id)
    assert len(script.calls) == 1
    assert first.replies[0].body == second.replies[0].body
    assert (first.replies[0].replayed, second.replies[0].replayed) == (False, True)
    assert again == first.response


async def test_fifty_at_a_time_of_one_request_have_one_effect() -> None:
    script = Script(*THREE_CALLS)
    request_id = uuid4()
    async with TestWorker(app, resources=script) as worker:
        responses = await asyncio.gather(
            *(
                worker.client.call(EXTEND, FIVE, user_id="ada", request_id=request_id, timeout=3600)
                for _ in range(50)
            )
        )
    assert responses == responses[:1] * 50
    assert len(script.calls) == 4


async def test_the_id_of_another_request_is_refused() -> None:
    async with TestWorker(app, resources=Script()) as worker:
        response = await worker.client.call(EXTEND, FIVE, user_id="ada")
        with pytest.raises(RequestFailed) as failed:
            await worker.client.call(EXTEND, Extend(minutes=6), user_id="ada", request_id=response.request_id)
    assert failed.value.code == ErrorCode.IDEMPOTENCY_CONFLICT


async def test_a_rejection_is_an_answer_and_is_not_tried_again() -> None:
    script = Script(Rejected("no minutes left", code="quota"))
    async with TestWorker(app, resources=script) as worker:
        with pytest.raises(RequestFailed, match="no minutes left") as failed:
            await worker.client.call(EXTEND, FIVE, user_id="ada")
        assert worker.dead_letters == []
    assert failed.value.response.metadata["rejection_code"] == "quota"
    assert len(script.calls) == 1


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


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"{", "JSON"),
        (
            b'{"user_id": "ada", "operation": "extend_session", "payload": {"minutes": "no"}}',
            "payload.minutes",
        ),
        (b'{"user_id": "ada", "operation": "extend_session", "payload": {"minutes": NaN}}', "JSON"),
        (b'{"user_id": "ada", "operation": "create_session", "payload": {"minutes": 5}}', "operation"),
    ],
)
async def test_a_body_that_breaks_the_contract_is_refused_with_the_fields_name(
    body: bytes, error: str
) -> None:
    script = Script()
    async with TestWorker(app, resources=script) as worker:
        sent = await worker.send(EXTEND, body, message_id=str(uuid4()))
        assert sent.response.status is RequestStatus.FAILED
        assert error in (sent.response.error or "")
        (letter,) = worker.dead_letters
        assert letter.refused
    assert script.calls == []


async def test_properties_go_with_a_raw_body() -> None:
    """Here as another program may send them: the id in a header, reply address and correlation of its own."""
    request_id = uuid4()
    body = b'{"user_id": "ada", "operation": "extend_session", "payload": {"minutes": 5}}'
    async with TestWorker(app, resources=Script()) as worker:
        sent = await worker.send(
            EXTEND,
            body,
            headers={"x-request-id": str(request_id)},
            reply_to="app.replies",
            correlation_id="call-7",
        )
        (reply,) = sent.replies
        assert reply.correlation_id == "call-7"
        assert reply.document["request_id"] == str(request_id)
        assert worker.entry(request_id) is not None
        forbidden = await worker.send(EXTEND, an_extension(), reply_to="orders.work")
        assert forbidden.replies == []


async def test_a_hanging_handler_is_cut_off_as_time_passes() -> None:
    script = Script()
    script.hang = True
    async with TestWorker(app, resources=script, max_attempts=2, hang_after=0.05) as worker:
        began = worker.now
        with pytest.raises(RequestFailed) as failed:
            await worker.client.call(EXTEND, FIVE, user_id="ada", timeout=300)
        assert 61 <= (worker.now - began).total_seconds() < 70  # two attempts of 30 s, and 1 s between them
    assert failed.value.code == ErrorCode.HANDLER_TIMEOUT


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
    script = Script()
    script.hang = True
    async with TestWorker(app, resources=script, hang_after=0.05) as worker:
        await worker.send(EXTEND, an_extension())
    with pytest.raises(ClientClosed):
        await worker.client.call(EXTEND, FIVE, user_id="ada")


async def test_a_result_that_is_none_fails_and_is_parked() -> None:
    wrong: App[None] = App()

    @wrong.operation(EXTEND)
    async def extend(request: BaseRequest[Extend], context: Context[None]) -> Extended:
        return {"minutes": "no"}  # type: ignore[return-value]

    async with TestWorker(wrong) as worker:
        with pytest.raises(RequestFailed) as failed:
            await worker.client.call(EXTEND, FIVE, user_id="ada")
        (letter,) = worker.dead_letters
    assert failed.value.code == ErrorCode.HANDLER_RESULT_INVALID
    assert letter.code == "handler_result_invalid"


async def test_a_read_is_answered_each_time_and_leaves_no_entry() -> None:
    """Its handler is a plain function, which runs in a thread."""
    script = Script()
    async with TestWorker(app, resources=script) as worker:
        request_id = uuid4()
        for _ in range(2):
            response = await worker.client.call(LOOK, FIVE, user_id="ada", request_id=request_id)
            assert response.payload.minutes == 5
        assert worker.entry(request_id) is None
    assert len(script.calls) == 2


async def test_sessions_are_created_listed_read_and_closed() -> None:
    """The hook is asked before, and its result is the session's metadata."""
    shop: App[None] = App()

    @shop.on_create_session
    async def check(request: CreateSessionRequest, context: Context[None]) -> dict[str, Any] | None:
        if request.payload.title == "no":
            raise Rejected("not this one")
        return {"region": "eu"}

    async with TestWorker(shop) as worker:
        client = worker.client
        with pytest.raises(RequestFailed, match="not this one"):
            await client.create_session(user_id="ada", title="no")
        session_id = (await client.create_session(user_id="ada", title="East wing")).payload.session_id
        await worker.advance(3600)
        (listed,) = (await client.list_sessions(user_id="ada")).payload.sessions
        assert (listed.session_id, listed.title) == (session_id, "East wing")
        assert (await client.get_session(session_id, user_id="ada")).payload.metadata == {"region": "eu"}
        closed = (await client.close_session(session_id, user_id="ada")).payload
        assert 3600 <= (closed.duration_seconds or 0) < 3660
        with pytest.raises(RequestFailed) as failed:
            await client.get_session(session_id, user_id="eve")
        assert failed.value.code == ErrorCode.SESSION_NOT_FOUND


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


async def test_an_operation_may_need_an_open_session() -> None:
    shop = App(lifespan=nothing_to_play)
    shop.operation(EXTEND, needs_session=True)(extend)
    async with TestWorker(shop, resources=Script()) as worker:
        session_id = (await worker.client.create_session(user_id="ada")).payload.session_id
        await worker.client.call(EXTEND, FIVE, user_id="ada", session_id=session_id)
        assert (await worker.client.get_session(session_id, user_id="ada")).payload.request_count == 2
        await worker.client.close_session(session_id, user_id="ada")
        with pytest.raises(RequestFailed) as failed:
            await worker.client.call(EXTEND, FIVE, user_id="ada", session_id=session_id)
    assert failed.value.code == ErrorCode.SESSION_CLOSED


async def test_an_operation_that_the_app_does_not_serve_is_not_routed() -> None:
    async with TestWorker(App()) as worker:
        with pytest.raises(RequestNotRouted, match="does not serve operation extend_session"):
            await worker.client.call(EXTEND, FIVE, user_id="ada")
        with pytest.raises(LookupError, match="does not serve operation extend_session"):
            await worker.send(EXTEND, b"{}")


async def test_a_call_that_gets_no_reply_ends_at_its_timeout() -> None:
    """A handler that hangs for longer than the caller waits."""
    script = Script()
    script.hang = True
    async with TestWorker(app, resources=script, hang_after=0.05) as worker:
        with pytest.raises(RequestTimedOut):
            await worker.client.call(EXTEND, FIVE, user_id="ada", timeout=5)


async def test_attempts_that_fail_are_told_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """With the handler's traceback: pytest shows it when a test fails."""
    async with TestWorker(app, resources=Script(*THREE_CALLS)) as worker:
        with caplog.at_level(logging.WARNING):
            await worker.client.call(EXTEND, FIVE, user_id="ada")
    (told,) = [record.getMessage() for record in caplog.records if record.name.startswith("session_worker")]
    assert told.startswith("attempt failed: ")
    assert "in extend" in told


async def test_arguments_of_the_client_are_checked_as_ever() -> None:
    async with TestWorker(app, resources=Script()) as worker:
        with pytest.raises(ValueError, match="payload: must be Extend"):
            await worker.client.call(EXTEND, Extended(minutes=1, attempt=1), user_id="ada")  # type: ignore[misc]


def test_a_setting_that_does_not_exist_is_named() -> None:
    with pytest.raises(TypeError, match="max_atempts"):
        TestWorker(app, max_atempts=2)


def test_the_environment_of_who_runs_the_tests_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is pytest, its plugin or its loop needed."""
    monkeypatch.setenv("SESSION_WORKER_MAX_ATTEMPTS", "1")

    async def main() -> int:
        async with TestWorker(app, resources=Script(*THREE_CALLS)) as worker:
            return (await worker.client.call(EXTEND, FIVE, user_id="ada")).payload.attempt

    assert asyncio.run(main()) == 2


async def test_a_raw_body_creates_a_session(tmp_path: object) -> None:
    request = CreateSessionRequest(user_id="ada", payload=CreateSessionPayload(title="x"))
    async with TestWorker(App()) as worker:
        sent = await worker.send(CREATE_SESSION, json.dumps(request.model_dump(mode="json")).encode())
        payload = sent.response.payload
        assert payload is not None
        assert UUID(str(sent.response.request_id)) == request.request_id
        assert payload.session_id.startswith("ts_")


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
