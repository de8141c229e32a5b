"""The gateways in ``examples/``, tested as their readers would: with a FakeWorker, and without a broker."""

from __future__ import annotations

import asyncio
import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import httpx
import pytest

from session_client.testing import Failure, FakeWorker, NoReply
from session_contracts import (
    CLOSE_SESSION,
    CREATE_SESSION,
    ERRORS,
    GET_SESSION,
    LIST_SESSIONS,
    ErrorCode,
    SessionClosedPayload,
    SessionCreatedPayload,
    SessionListPayload,
    SessionPayload,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    Answer = tuple[int, dict[str, Any]]
    Http = Callable[..., Awaitable[Answer]]
    """Method, path and maybe a JSON body; status and body of the answer."""

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"
ADA = "ada@example.com"
ID = "ts_251130_a"
SESSION = SessionPayload(
    session_id=ID,
    user_id=ADA,
    created_at="2025-11-30T14:30:00Z",
    updated_at="2025-11-30T14:30:00Z",
    active=True,
    request_count=1,
    event_count=3,
)
CREATED = SessionCreatedPayload(session_id=ID, created_at="2025-11-30T14:30:00Z")
CLOSED = SessionClosedPayload(
    session_id=ID, closed_at="2025-11-30T14:30:00Z", total_requests=2, total_events=6
)


@pytest.fixture
def worker() -> FakeWorker:
    return FakeWorker()


@pytest.fixture(params=["fastapi", "flask"])
async def http(
    request: pytest.FixtureRequest, worker: FakeWorker, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Http]:
    """One of the gateways, with clients of the FakeWorker's."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    gateway = importlib.import_module(f"{request.param}_gateway")
    if request.param == "fastapi":
        monkeypatch.setattr(gateway, "SessionClient", lambda *_, **__: worker.client())
        there = httpx.ASGITransport(gateway.app)
        async with gateway.lifespan(gateway.app), httpx.AsyncClient(transport=there) as client:

            async def ask(method: str, path: str, body: object = None) -> Answer:
                answer = await client.request(method, f"http://gateway{path}", json=body)
                return answer.status_code, answer.json()

            yield ask
    else:
        monkeypatch.setattr(gateway, "client", worker.sync_client())
        browser = gateway.app.test_client()

        async def ask(method: str, path: str, body: object = None) -> Answer:
            answer = await asyncio.to_thread(browser.open, path, method=method, json=body)
            return answer.status_code, answer.json

        yield ask
        gateway.client.close()


async def test_each_operation_has_its_address(worker: FakeWorker, http: Http) -> None:
    worker.answer(CREATE_SESSION, CREATED)
    worker.answer(GET_SESSION, SESSION)
    worker.answer(LIST_SESSIONS, SessionListPayload(sessions=[SESSION], total_count=3, offset=2, limit=1))
    worker.answer(CLOSE_SESSION, CLOSED)
    request_id = str(uuid4())

    created = await http(
        "POST", "/sessions", {"user_id": ADA, "title": "East wing", "request_id": request_id}
    )
    got = await http("GET", f"/sessions/{ID}?user_id={ADA}")
    listed = await http("GET", f"/sessions?user_id={ADA}&limit=1&offset=2")
    closed = await http("POST", f"/sessions/{ID}/close?user_id={ADA}")

    assert [code for code, _ in (created, got, listed, closed)] == [201, 200, 200, 200]
    assert (created[1]["request_id"], created[1]["payload"]["session_id"]) == (request_id, ID)
    assert got[1]["payload"] == SESSION.model_dump()
    assert listed[1]["payload"]["total_count"] == 3
    assert closed[1]["payload"]["closed_at"] == CLOSED.closed_at
    assert [request.operation for request in worker.requests] == [
        "create_session",
        "get_session",
        "list_sessions",
        "close_session",
    ]
    assert (worker.requests[0].payload.title, worker.requests[2].payload.offset) == ("East wing", 2)


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (ErrorCode.SESSION_NOT_FOUND, 404),
        (ErrorCode.REJECTED, 403),
        (ErrorCode.IDEMPOTENCY_CONFLICT, 409),
        (ErrorCode.INVALID_REQUEST, 400),
        (ErrorCode.HANDLER_FAILED, 503),
        (ErrorCode.CRASHED_WORKER, 500),
    ],
)
async def test_a_failure_is_a_status_and_says_its_code(
    worker: FakeWorker, http: Http, code: ErrorCode, status: int
) -> None:
    worker.answer(GET_SESSION, Failure(code, "so it is"))
    answered, problem = await http("GET", f"/sessions/{ID}?user_id={ADA}")
    assert (answered, problem["code"], problem["error"]) == (status, code, "so it is")
    assert problem["retryable"] is ERRORS[code].retryable
    assert problem["request_id"] == str(worker.requests[0].request_id)


async def test_a_wrong_field_is_named_and_nothing_is_sent(worker: FakeWorker, http: Http) -> None:
    worker.answer(GET_SESSION, SESSION)
    code, problem = await http("GET", f"/sessions/7?user_id={ADA}")
    assert code == 400
    assert "payload.session_id: must look like" in str(problem)
    assert worker.requests == []


async def test_no_answer_in_time_is_told_with_the_id_to_ask_again(worker: FakeWorker, http: Http) -> None:
    worker.answer(CREATE_SESSION, NoReply(), CREATED)
    late, problem = await http("POST", "/sessions", {"user_id": ADA})
    code, answer = await http("POST", "/sessions", {"user_id": ADA, "request_id": problem["request_id"]})
    assert (late, code, answer["request_id"]) == (504, 201, problem["request_id"])


async def test_without_a_worker_it_is_unavailable(http: Http) -> None:
    code, problem = await http("POST", "/sessions", {"user_id": ADA})
    assert (code, "reached no worker's queue" in problem["error"]) == (503, True)
