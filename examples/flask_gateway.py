"""Sessions by HTTP with Flask, whose views block: the gateway with SyncSessionClient.

flask --app examples/flask_gateway run --port 8000
curl -H 'content-type: application/json' -d '{"user_id": "ada@example.com"}' localhost:8000/sessions
curl 'localhost:8000/sessions?user_id=ada@example.com'
"""

import logging
import os
from http import HTTPStatus
from typing import Any

from flask import Flask, request

from session_client import RequestFailed, RequestTimedOut, SessionClientError, SyncSessionClient
from session_contracts import BaseResponse, ErrorCode

AMQP_URL = os.environ.get("AMQP_URL", "amqp://guest:guest@localhost:5672/")
ANSWER_SECONDS = float(os.environ.get("ANSWER_SECONDS", "30"))
STATUSES = {
    ErrorCode.INVALID_REQUEST: HTTPStatus.BAD_REQUEST,
    ErrorCode.IDEMPOTENCY_CONFLICT: HTTPStatus.CONFLICT,
    ErrorCode.REJECTED: HTTPStatus.FORBIDDEN,
    ErrorCode.SESSION_NOT_FOUND: HTTPStatus.NOT_FOUND,
}
Answer = tuple[dict[str, Any], HTTPStatus]

# It shows a stack trace for every lost connection. The client connects again, or says why it cannot.
logging.getLogger("aiormq").setLevel(logging.CRITICAL)

app = Flask(__name__)
# One for all threads. It connects with the first call, in each process that a server forks off, and then
# waits for a broker that is away, up to ANSWER_SECONDS.
client = SyncSessionClient(AMQP_URL, name="flask")


@app.post("/sessions")
def create_session() -> Answer:
    wish = request.get_json()
    fields = {name: wish.get(name) for name in ("user_id", "casefile_id", "title", "request_id")}
    return answer(client.create_session(**fields, timeout=ANSWER_SECONDS), HTTPStatus.CREATED)


@app.get("/sessions/<session_id>")
def get_session(session_id: str) -> Answer:
    return answer(client.get_session(session_id, user_id=user(), timeout=ANSWER_SECONDS))


@app.get("/sessions")
def list_sessions() -> Answer:
    limit, offset = request.args.get("limit", 50, int), request.args.get("offset", 0, int)
    return answer(
        client.list_sessions(user_id=user(), limit=limit, offset=offset, timeout=ANSWER_SECONDS),
    )


@app.post("/sessions/<session_id>/close")
def close_session(session_id: str) -> Answer:
    return answer(client.close_session(session_id, user_id=user(), timeout=ANSWER_SECONDS))


def user() -> str:
    return request.args.get("user_id", "")


def answer(response: BaseResponse[Any], status: HTTPStatus = HTTPStatus.OK) -> Answer:
    return response.model_dump(mode="json"), status


@app.errorhandler(ValueError)
def on_wrong_argument(error: ValueError) -> Answer:
    """A field breaks a rule of the contract. The client names it, and has sent nothing."""
    return {"error": str(error)}, HTTPStatus.BAD_REQUEST


@app.errorhandler(RequestFailed)
def on_failed(failed: RequestFailed) -> Answer:
    """The worker's answer is no; asking again with the same id gets the same answer."""
    unknown = HTTPStatus.SERVICE_UNAVAILABLE if failed.retryable else HTTPStatus.INTERNAL_SERVER_ERROR
    status = next((status for code, status in STATUSES.items() if failed.code == code), unknown)
    return {
        "request_id": str(failed.response.request_id),
        "error": failed.response.error,
        "code": failed.code,
        "retryable": failed.retryable,
    }, status


@app.errorhandler(RequestTimedOut)
def on_timeout(error: RequestTimedOut) -> Answer:
    """The request may be carried out all the same: asking again with its id tells how it ended."""
    return {"request_id": str(error.request_id), "error": str(error)}, HTTPStatus.GATEWAY_TIMEOUT


@app.errorhandler(SessionClientError)
def on_trouble(error: SessionClientError) -> Answer:
    return {"error": str(error)}, HTTPStatus.SERVICE_UNAVAILABLE
