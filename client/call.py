"""A call: one caller's wait for the reply to one request."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from uuid import uuid4

from pamqp.commands import Basic
from pydantic import ValidationError

from client.errors import ReplyInvalid, RequestFailed
from client.tracing import trace_headers
from contracts import CreateSessionRequest, CreateSessionResponse, RequestStatus, problems
from contracts.amqp import CONTENT_TYPE, REQUEST_ID, REQUEST_TYPE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

FIRST_TRY_SECONDS = 5.0
"""Time for the first try of a call; doubled after every try that times out."""
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
        self.reply: bytes | None = None
        self._replied = asyncio.Event()
        self._patience = FIRST_TRY_SECONDS
        self._timer: asyncio.Timeout | None = None
        self._interrupted = False

    def properties(self, reply_to: str) -> Basic.Properties:
        """For the next publish: whoever finds the request after our deadline need not carry it out."""
        return Basic.Properties(
            content_type=CONTENT_TYPE,
            correlation_id=self.correlation_id,
            delivery_mode=2,
            expiration=str(max(0, self._left_ms())),
            headers={REQUEST_ID: str(self.request.request_id)} | trace_headers(),
            message_id=str(uuid4()),
            message_type=REQUEST_TYPE,
            reply_to=reply_to,
            timestamp=datetime.now(UTC),
        )

    def take(self, reply: bytes) -> bool:
        """Note the reply; False if there was one already."""
        if self.reply is not None:
            return False
        self.reply = reply
        self._replied.set()
        return True

    @asynccontextmanager
    async def one_try(self) -> AsyncIterator[None]:
        """Bound what is done inside; ``limit`` narrows the bound.

        Raises:
            TimeoutError: the time is over, or the call was interrupted.
        """
        self._interrupted = False
        try:
            async with asyncio.timeout_at(self.deadline) as self._timer:
                yield
        except TimeoutError:
            if not self._interrupted:
                self._patience *= 2
            raise
        finally:
            self._timer = None

    def limit(self, seconds: float | None = None) -> None:
        """Give the rest of this try so many seconds (None: its due), never past the deadline."""
        if self._timer is not None and not self._interrupted and not self._timer.expired():
            self._timer.reschedule(min(self.deadline, _now() + (seconds or self._patience)))

    def interrupt(self) -> None:
        """End the current try at once."""
        self._interrupted = True
        if self._timer is not None and not self._timer.expired():
            self._timer.reschedule(_now())

    async def wait_for_reply(self) -> None:
        await self._replied.wait()

    @property
    def is_overdue(self) -> bool:
        return self._left_ms() < 1

    def _left_ms(self) -> int:
        return int((self.deadline - _now()) * 1000)

    def response(self) -> CreateSessionResponse:
        """The answer: completed.

        Raises:
            RequestFailed: it is ``failed``.
            ReplyInvalid: it breaks the contract.
        """
        try:
            response = CreateSessionResponse.model_validate_json(self.reply or b"")
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
