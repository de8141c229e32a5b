"""A call: one caller's wait for the reply to one request."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from uuid import uuid4

from pamqp.commands import Basic
from pydantic import ValidationError

from session_client.errors import ReplyInvalid, RequestFailed
from session_client.tracing import trace_headers
from session_contracts import CreateSessionRequest, CreateSessionResponse, RequestStatus, problems
from session_contracts.amqp import CONTENT_TYPE, REQUEST_ID, REQUEST_TYPE

FIRST_TRY_SECONDS = 5.0
"""Time for the first try of a call; doubled after every one that ends without a reply."""
MAX_BODY_BYTES = 16 * 1024 * 1024
"""A larger message makes the broker close the channel, and every call on it would suffer."""


class Call:
    """``correlation_id`` is the call's own: two calls with one request id both get their reply."""

    def __init__(self, request: CreateSessionRequest, timeout: float) -> None:
        self.request = request
        self.body = request.model_dump_json().encode()
        if len(self.body) > MAX_BODY_BYTES:
            raise ValueError(f"the request is larger than {MAX_BODY_BYTES} bytes; put less into metadata")
        self.correlation_id = str(uuid4())
        self.timeout = timeout
        self.deadline = _now() + timeout
        self.accepted = False
        """Whether the broker has taken the request at least once."""
        self.trouble: str | None = None
        """What stood in the way of the last try."""
        self.replied: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._patience = FIRST_TRY_SECONDS

    def properties(self, reply_to: str) -> Basic.Properties:
        """For the next publish: whoever finds the request after our deadline need not carry it out."""
        return Basic.Properties(
            content_type=CONTENT_TYPE,
            correlation_id=self.correlation_id,
            delivery_mode=2,
            expiration=str(max(0, int(self.left * 1000))),
            headers={REQUEST_ID: str(self.request.request_id)} | trace_headers(),
            message_id=str(uuid4()),
            message_type=REQUEST_TYPE,
            reply_to=reply_to,
            timestamp=datetime.now(UTC),
        )

    def take(self, reply: bytes) -> bool:
        """Note the reply; False if there was one already."""
        if self.replied.done():
            return False
        self.replied.set_result(reply)
        return True

    @property
    def left(self) -> float:
        """Seconds until the deadline."""
        return self.deadline - _now()

    @property
    def is_overdue(self) -> bool:
        return self.left < 0.001

    @property
    def patience(self) -> float:
        """Seconds to wait for what was sent, before it is sent again."""
        return min(self._patience, self.left)

    def be_more_patient(self) -> None:
        """The next wait may take twice as long: a worker that is busy must not get ever more to do."""
        self._patience *= 2

    def response(self) -> CreateSessionResponse:
        """The answer: completed.

        Raises:
            RequestFailed: it is ``failed``.
            ReplyInvalid: it breaks the contract.
        """
        try:
            response = CreateSessionResponse.model_validate_json(self.replied.result())
        except ValidationError as error:
            raise ReplyInvalid(self.request.request_id, problems(error)) from None
        if response.status is RequestStatus.FAILED:
            raise RequestFailed(response)
        if response.status is not RequestStatus.COMPLETED:
            raise ReplyInvalid(self.request.request_id, f"status {response.status} is not final")
        if response.request_id != self.request.request_id:
            raise ReplyInvalid(self.request.request_id, "it is about another request")
        return response


def _now() -> float:
    return asyncio.get_running_loop().time()
