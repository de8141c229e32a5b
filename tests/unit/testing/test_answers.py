"""What a request may end with in a user's test, and what the test sees of it."""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import pytest

from session_client import ClientClosed, RequestFailed, RequestNotRouted
from session_contracts import (
    CREATE_SESSION,
    BaseRequest,
    CreateSessionPayload,
    CreateSessionRequest,
    ErrorCode,
    RequestStatus,
)
from session_worker import App, Context, Rejected
from session_worker.testing import TestWorker
from tests.unit.testing.playing import (
    EXTEND,
    FIVE,
    LOOK,
    THREE_CALLS,
    Extend,
    Extended,
    Script,
    an_extension,
    app,
    extend,
    nothing_to_play,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


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


async def test_a_lifespan_may_be_entered_and_left_from_two_tasks() -> None:
    """As by the set-up of a fixture and its teardown: what it has entered is left by the task that did."""

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[Script]:
        async with asyncio.TaskGroup():
            yield Script()

    grouped = App(lifespan=lifespan)
    grouped.operation(EXTEND)(extend)
    worker = TestWorker(grouped)
    await asyncio.create_task(worker.__aenter__())
    await worker.client.call(EXTEND, FIVE, user_id="ada")
    await asyncio.create_task(worker.__aexit__(None, None, None))


async def test_a_lifespan_that_fails_at_the_end_says_so() -> None:
    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        yield
        raise OSError("the till does not close")

    with pytest.raises(OSError, match="the till does not close"):
        async with TestWorker(App(lifespan=lifespan)):
            pass


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


async def test_a_read_that_fails_is_answered_and_not_parked() -> None:
    """After its immediate retries; there are no others."""
    script = Script(*THREE_CALLS)
    async with TestWorker(app, resources=script) as worker:
        with pytest.raises(RequestFailed) as failed:
            await worker.client.call(LOOK, FIVE, user_id="ada")
        assert worker.dead_letters == []
    assert failed.value.code == ErrorCode.HANDLER_FAILED
    assert len(script.calls) == 3


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


async def test_attempts_that_fail_are_told_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """With the handler's traceback: pytest shows it when a test fails."""
    async with TestWorker(app, resources=Script(*THREE_CALLS)) as worker:
        with caplog.at_level(logging.WARNING):
            await worker.client.call(EXTEND, FIVE, user_id="ada")
    (told,) = [record.getMessage() for record in caplog.records if record.name.startswith("session_worker")]
    assert told.startswith("attempt failed: ")
    assert "in extend" in told


async def test_the_client_works_while_the_worker_does() -> None:
    worker = TestWorker(app, resources=Script())
    with pytest.raises(ClientClosed, match="within `async with TestWorker"):
        await worker.client.call(EXTEND, FIVE, user_id="ada")
    async with worker:
        await worker.client.call(EXTEND, FIVE, user_id="ada")
    with pytest.raises(ClientClosed, match="within `async with TestWorker"):
        await worker.client.call(EXTEND, FIVE, user_id="ada")


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


def test_it_needs_no_test_runner() -> None:
    code = "import sys, session_worker.testing; sys.exit('pytest' in sys.modules or 'anyio' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
