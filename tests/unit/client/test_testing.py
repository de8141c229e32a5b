"""The worker that requesters' tests play with: the answers it is told to give, and no broker."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from pydantic import BaseModel, Field

from session_client import ClientClosed, RequestFailed, RequestNotRouted, RequestTimedOut
from session_client.testing import Failure, FakeWorker, NoReply
from session_contracts import (
    CREATE_SESSION,
    GET_SESSION,
    NIL_SESSION_ID,
    CreateSessionPayload,
    CreateSessionRequest,
    ErrorCode,
    Operation,
    SessionCreatedPayload,
    SessionPayload,
)
from session_worker import App, Context, Rejected
from session_worker.testing import TestWorker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from session_client import SessionClient
    from session_contracts import BaseRequest

USER = "ada@example.com"


class ExtendSession(BaseModel):
    minutes: int = Field(alias="m", gt=0)


class SessionExtended(BaseModel):
    until: str = Field(alias="u")


EXTEND = Operation("extend_session", ExtendSession, SessionExtended)
LATER = SessionExtended(u="later")
CREATED = SessionCreatedPayload(session_id="ts_251130_a", created_at="2025-11-30T14:30:00Z")


@pytest.fixture
def worker() -> FakeWorker:
    return FakeWorker()


@pytest.fixture
async def client(worker: FakeWorker) -> AsyncIterator[SessionClient]:
    async with worker.client() as client:
        yield client


async def until(client: SessionClient, **options: Any) -> str:
    response = await client.call(EXTEND, ExtendSession(m=5), **({"user_id": USER} | options))
    return response.payload.until


async def slowly(request: BaseRequest[ExtendSession]) -> SessionExtended:
    await asyncio.sleep(0)
    return SessionExtended(u=f"in {request.payload.minutes}")


async def test_an_answer_is_a_result_or_a_function_of_the_request(
    worker: FakeWorker, client: SessionClient
) -> None:
    """Of each next request another one, and of all others the last."""
    worker.answer(EXTEND, LATER, lambda request: SessionExtended(u=f"for {request.user_id}"), slowly)
    assert [await until(client) for _ in range(4)] == ["later", f"for {USER}", "in 5", "in 5"]


async def test_it_keeps_the_requests_that_it_got_as_a_worker_reads_them(
    worker: FakeWorker, client: SessionClient
) -> None:
    request_id = uuid4()
    worker.answer(EXTEND, LATER)
    await until(client, request_id=request_id, session_id="TS_251130_A", metadata={"source": "test"})
    [request] = worker.requests
    assert (request.request_id, request.user_id, request.session_id) == (request_id, USER, "ts_251130_a")
    assert (request.payload, request.metadata) == (ExtendSession(m=5), {"source": "test"})


@pytest.mark.parametrize("raised", [False, True], ids=["given", "raised"])
async def test_a_failure_is_raised_by_the_client_with_its_code(
    worker: FakeWorker, client: SessionClient, raised: bool
) -> None:
    failure = Failure(ErrorCode.REJECTED, "not on Sundays", rejection_code="sunday")

    def fail(request: BaseRequest[ExtendSession]) -> SessionExtended:
        raise failure

    worker.answer(EXTEND, fail if raised else failure)
    with pytest.raises(RequestFailed, match="not on Sundays") as caught:
        await until(client)
    assert (caught.value.code, caught.value.retryable) == (ErrorCode.REJECTED, False)
    assert caught.value.response.metadata["rejection_code"] == "sunday"


@pytest.mark.parametrize("code", ErrorCode)
async def test_every_code_can_be_played(worker: FakeWorker, client: SessionClient, code: ErrorCode) -> None:
    """In the response of an operation whose failed response has a payload, too."""
    worker.answer(CREATE_SESSION, Failure(code))
    worker.answer(EXTEND, Failure(code))
    with pytest.raises(RequestFailed) as of_creating:
        await client.create_session(user_id=USER)
    with pytest.raises(RequestFailed) as of_extending:
        await until(client)
    assert of_creating.value.code == of_extending.value.code == code
    assert (of_creating.value.response.payload is None, of_extending.value.response.payload) == (False, None)


async def test_no_reply_is_a_timeout_that_takes_no_time(worker: FakeWorker, client: SessionClient) -> None:
    """With the id to ask again, and what is then asked again gets the next answer."""
    worker.answer(EXTEND, NoReply(), LATER)
    async with asyncio.timeout(5):
        with pytest.raises(RequestTimedOut, match="within 3600 s") as caught:
            await until(client, timeout=3600)
    assert await until(client, request_id=caught.value.request_id) == "later"


async def test_an_answer_that_takes_longer_than_the_caller_has_is_a_timeout(
    worker: FakeWorker, client: SessionClient
) -> None:
    async def never(request: BaseRequest[ExtendSession]) -> SessionExtended:
        await asyncio.Event().wait()
        return LATER

    worker.answer(EXTEND, never)
    with pytest.raises(RequestTimedOut, match=r"within 0\.01 s"):
        await until(client, timeout=0.01)


async def test_an_operation_without_an_answer_is_not_routed(
    worker: FakeWorker, client: SessionClient
) -> None:
    with pytest.raises(RequestNotRouted, match="no answer for extend_session; give it one"):
        await until(client)
    worker.answer(EXTEND, LATER)
    await until(client)
    worker.answer(EXTEND)
    with pytest.raises(RequestNotRouted):
        await until(client)


async def test_one_request_id_has_one_outcome(worker: FakeWorker, client: SessionClient) -> None:
    """Asked again, it gets the same response; asked something else, a conflict. Failures stay as well."""
    worker.answer(EXTEND, SessionExtended(u="first"), Failure(), SessionExtended(u="third"))
    request_id, failing = uuid4(), uuid4()
    assert [await until(client, request_id=request_id) for _ in range(2)] == ["first", "first"]
    with pytest.raises(RequestFailed) as conflict:
        await until(client, request_id=request_id, user_id="bob@example.com")
    assert conflict.value.code == ErrorCode.IDEMPOTENCY_CONFLICT
    for _ in range(2):
        with pytest.raises(RequestFailed) as rejected:
            await until(client, request_id=failing)
        assert rejected.value.code == ErrorCode.REJECTED
    assert await until(client) == "third"
    assert len(worker.requests) == 6


async def test_a_read_that_is_asked_again_is_answered_anew(worker: FakeWorker, client: SessionClient) -> None:
    summary = {
        "session_id": "ts_251130_a",
        "user_id": USER,
        "created_at": "2025-11-30T14:30:00Z",
        "updated_at": "2025-11-30T14:30:00Z",
        "active": True,
        "request_count": 1,
        "event_count": 3,
    }
    open_one = SessionPayload.model_validate(summary)
    worker.answer(GET_SESSION, open_one, open_one.model_copy(update={"active": False}))
    request_id = uuid4()
    asked = [await client.get_session("ts_251130_a", user_id=USER, request_id=request_id) for _ in range(2)]
    assert [response.payload.active for response in asked] == [True, False]


async def test_it_refuses_what_a_worker_refuses(worker: FakeWorker, client: SessionClient) -> None:
    """Here a request that was made without a check."""
    worker.answer(CREATE_SESSION, CREATED)
    payload = CreateSessionPayload.model_construct(title="x" * 201)
    with pytest.raises(RequestFailed, match=r"payload\.title: must be a string of 1 to 200") as caught:
        await client.request(CreateSessionRequest(user_id=USER, payload=payload))
    assert caught.value.code == ErrorCode.INVALID_REQUEST
    assert worker.requests == []


async def test_what_a_function_of_the_test_raises_comes_out_of_the_call(
    worker: FakeWorker, client: SessionClient
) -> None:
    """An assertion about the request, or a mistake, must not look like an answer."""

    def check(request: BaseRequest[ExtendSession]) -> SessionExtended:
        raise TimeoutError(request.user_id)

    worker.answer(EXTEND, check)
    with pytest.raises(TimeoutError, match=USER):
        await until(client)


async def test_an_answer_of_the_wrong_kind_is_a_sentence(worker: FakeWorker, client: SessionClient) -> None:
    worker.answer(EXTEND, lambda _: CREATED)  # type: ignore[arg-type,return-value]
    with pytest.raises(TypeError, match="to extend_session must be SessionExtended, not SessionCreatedPay"):
        await until(client)


async def test_its_clients_are_opened_and_closed_like_any(worker: FakeWorker) -> None:
    worker.answer(CREATE_SESSION, CREATED)
    client = worker.client()
    with pytest.raises(ClientClosed, match="not open"):
        await client.create_session(user_id=USER)
    await client.open(wait=False)
    assert (await client.create_session(user_id=USER)).payload.session_id == "ts_251130_a"
    await client.close()
    with pytest.raises(ClientClosed):
        await client.create_session(user_id=USER)


def test_code_that_blocks_is_tested_in_the_same_way(worker: FakeWorker) -> None:
    worker.answer(CREATE_SESSION, CREATED, Failure(ErrorCode.EXPIRED))
    with worker.sync_client() as client:
        assert client.create_session(user_id=USER).payload.session_id == "ts_251130_a"
        with pytest.raises(RequestFailed, match="expired before its first attempt"):
            client.create_session(user_id=USER)
    assert [request.user_id for request in worker.requests] == [USER, USER]


def real_app() -> App[None]:
    """What the scripts of the test below play."""
    app = App()

    @app.operation(EXTEND, max_attempts=1)
    async def extend(request: BaseRequest[ExtendSession], context: Context[None]) -> SessionExtended:
        if request.payload.minutes == 1:
            raise Rejected("not on Sundays", code="sunday")
        if request.payload.minutes == 2:
            raise ZeroDivisionError
        return LATER

    @app.on_create_session
    async def refuse(request: CreateSessionRequest, context: Context[None]) -> None:
        raise Rejected("full")

    return app


async def what_happens(client: SessionClient) -> list[dict[str, Any]]:
    """The answers to requests of all kinds, without what differs from one to the next."""
    request_id = uuid4()
    asked = [
        client.call(EXTEND, ExtendSession(m=5), user_id=USER, request_id=request_id),
        client.call(EXTEND, ExtendSession(m=5), user_id=USER, request_id=request_id),
        client.call(EXTEND, ExtendSession(m=6), user_id=USER, request_id=request_id),
        client.call(EXTEND, ExtendSession(m=1), user_id=USER),
        client.call(EXTEND, ExtendSession(m=2), user_id=USER),
        client.create_session(user_id=USER),
        client.get_session("ts_251130_a", user_id=USER),
        client.request(
            CreateSessionRequest(user_id=USER, payload=CreateSessionPayload.model_construct(title=""))
        ),
    ]
    found = []
    for call in asked:
        try:
            response: Any = await call
        except RequestFailed as failed:
            response = failed.response
        answer = response.model_dump(exclude={"request_id", "timestamp"})
        answer["metadata"] |= {"worker_id": "", "processing_ms": 0.0, "attempts": 0}
        if "session_id" in (answer["payload"] or {}):
            answer["payload"] |= {"session_id": NIL_SESSION_ID, "created_at": ""}
        found.append(answer)
    return found


async def test_its_answers_are_those_of_the_worker_itself(worker: FakeWorker, client: SessionClient) -> None:
    """Codes, sentences, payloads and the facts in the metadata."""
    rejected = Failure(ErrorCode.REJECTED, "not on Sundays", rejection_code="sunday")
    broken = Failure(ErrorCode.HANDLER_FAILED, "the request failed 1 time(s)")
    worker.answer(EXTEND, LATER, rejected, broken)
    worker.answer(CREATE_SESSION, Failure(error="full"))
    worker.answer(GET_SESSION, Failure(ErrorCode.SESSION_NOT_FOUND))

    played = await what_happens(client)
    async with TestWorker(real_app()) as real:
        meant = await what_happens(real.client)

    assert played == meant
