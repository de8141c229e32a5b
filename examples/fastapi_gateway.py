"""Sessions by HTTP: a gateway in front of the workers.

uvicorn --app-dir examples fastapi_gateway:app
curl -H 'content-type: application/json' -d '{"user_id": "ada@example.com"}' localhost:8000/sessions
"""

import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from uuid import UUID, uuid4

from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from session_client import RequestFailed, RequestTimedOut, SessionClient, SessionClientError
from session_contracts import CreateSessionResponse, ErrorCode
from session_contracts.errors import ERRORS

AMQP_URL = os.environ.get("AMQP_URL", "amqp://guest:guest@localhost:5672/")
ANSWER_SECONDS = float(os.environ.get("ANSWER_SECONDS", "30"))

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


@app.post("/sessions", status_code=HTTPStatus.CREATED)
async def create_session(wish: Wish, request: Request) -> CreateSessionResponse:
    client: SessionClient = request.app.state.client
    request.state.request_id = wish.request_id
    try:
        return await client.create_session(**wish.model_dump(), timeout=ANSWER_SECONDS)
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
    if failed.code == ErrorCode.IDEMPOTENCY_CONFLICT:
        return HTTPStatus.CONFLICT
    if failed.code == ErrorCode.REJECTED:
        return HTTPStatus.FORBIDDEN
    if failed.retryable:
        return HTTPStatus.SERVICE_UNAVAILABLE
    by_requester = {code for code, info in ERRORS.items() if info.who_fixes == "requester"}
    return HTTPStatus.BAD_REQUEST if failed.code in by_requester else HTTPStatus.INTERNAL_SERVER_ERROR


def problem(request: Request, status: HTTPStatus, error: str, **facts: object) -> JSONResponse:
    return JSONResponse({"request_id": str(request.state.request_id), "error": error, **facts}, status)
