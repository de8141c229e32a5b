"""Sessions by HTTP: a gateway in front of the workers.

uvicorn --app-dir examples fastapi_gateway:app
curl -H 'content-type: application/json' -d '{"user_id": "ada@example.com"}' localhost:8000/sessions
curl 'localhost:8000/sessions?user_id=ada@example.com'
"""

import logging
import os
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Annotated, TypeVar
from uuid import UUID, uuid4

from fastapi import Depends, FastAPI, HTTPException, Query, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from session_client import RequestFailed, RequestTimedOut, SessionClient, SessionClientError
from session_contracts import (
    ERRORS,
    BaseResponse,
    CreateSessionResponse,
    ErrorCode,
    SessionClosedPayload,
    SessionListPayload,
    SessionPayload,
)

AMQP_URL = os.environ.get("AMQP_URL", "amqp://guest:guest@localhost:5672/")
ANSWER_SECONDS = float(os.environ.get("ANSWER_SECONDS", "30"))
STATUSES = {
    ErrorCode.IDEMPOTENCY_CONFLICT: HTTPStatus.CONFLICT,
    ErrorCode.REJECTED: HTTPStatus.FORBIDDEN,
    ErrorCode.SESSION_NOT_FOUND: HTTPStatus.NOT_FOUND,
}

T = TypeVar("T")

# It shows a stack trace for every lost connection. The client connects again, or says why it cannot.
logging.getLogger("aiormq").setLevel(logging.CRITICAL)


class Wish(BaseModel):
    user_id: str
    casefile_id: str | None = None
    title: str | None = None
    # Whoever sends an id of their own can ask again after any failure, their own included.
    request_id: UUID = Field(default_factory=uuid4)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    # One client for all: it has many calls in flight over one connection, and connects again by itself.
    client = SessionClient(AMQP_URL, name="gateway")
    # The gateway starts while the broker is away: requests then wait for it, up to ANSWER_SECONDS.
    await client.open(wait=False)
    app.state.client = client
    try:
        yield
    finally:
        await client.close()


app = FastAPI(title="Sessions", lifespan=lifespan)


def client_of(request: Request) -> SessionClient:
    client: SessionClient = request.app.state.client
    return client


Client = Annotated[SessionClient, Depends(client_of)]
RequestId = Annotated[UUID, Query(default_factory=uuid4)]


@app.post("/sessions", status_code=HTTPStatus.CREATED)
async def create_session(wish: Wish, client: Client, request: Request) -> CreateSessionResponse:
    call = client.create_session(**wish.model_dump(), timeout=ANSWER_SECONDS)
    return await answer(request, wish.request_id, call)


@app.get("/sessions/{session_id}")
async def get_session(
    session_id: str, user_id: str, client: Client, request: Request, request_id: RequestId
) -> BaseResponse[SessionPayload]:
    call = client.get_session(session_id, user_id=user_id, request_id=request_id, timeout=ANSWER_SECONDS)
    return await answer(request, request_id, call)


@app.get("/sessions")
async def list_sessions(
    user_id: str,
    client: Client,
    request: Request,
    request_id: RequestId,
    casefile_id: str | None = None,
    active_only: bool = True,
    limit: int = 50,
    offset: int = 0,
) -> BaseResponse[SessionListPayload]:
    call = client.list_sessions(
        user_id=user_id,
        casefile_id=casefile_id,
        active_only=active_only,
        limit=limit,
        offset=offset,
        request_id=request_id,
        timeout=ANSWER_SECONDS,
    )
    return await answer(request, request_id, call)


@app.post("/sessions/{session_id}/close")
async def close_session(
    session_id: str, user_id: str, client: Client, request: Request, request_id: RequestId
) -> BaseResponse[SessionClosedPayload]:
    call = client.close_session(session_id, user_id=user_id, request_id=request_id, timeout=ANSWER_SECONDS)
    return await answer(request, request_id, call)


async def answer(request: Request, request_id: UUID, call: Awaitable[T]) -> T:
    request.state.request_id = request_id
    try:
        return await call
    except ValueError as error:
        # A field breaks a rule of the contract. The client names it, and has sent nothing.
        raise HTTPException(HTTPStatus.BAD_REQUEST, str(error)) from error


@app.exception_handler(RequestFailed)
async def on_failed(request: Request, failed: RequestFailed) -> JSONResponse:
    """The worker's answer is no; asking again with the same id gets the same answer."""
    error = failed.response.error or str(failed)
    return problem(request, status_of(failed), error, code=failed.code, retryable=failed.retryable)


@app.exception_handler(RequestTimedOut)
async def on_timeout(request: Request, error: RequestTimedOut) -> JSONResponse:
    """The request may be carried out all the same: asking again with its id tells how it ended."""
    return problem(request, HTTPStatus.GATEWAY_TIMEOUT, str(error))


@app.exception_handler(SessionClientError)
async def on_trouble(request: Request, error: SessionClientError) -> JSONResponse:
    return problem(request, HTTPStatus.SERVICE_UNAVAILABLE, str(error))


def status_of(failed: RequestFailed) -> HTTPStatus:
    for code, status in STATUSES.items():
        if failed.code == code:
            return status
    if failed.retryable:
        return HTTPStatus.SERVICE_UNAVAILABLE
    by_requester = {code for code, info in ERRORS.items() if info.who_fixes == "requester"}
    return HTTPStatus.BAD_REQUEST if failed.code in by_requester else HTTPStatus.INTERNAL_SERVER_ERROR


def problem(request: Request, status: HTTPStatus, error: str, **facts: object) -> JSONResponse:
    return JSONResponse({"request_id": str(request.state.request_id), "error": error, **facts}, status)
