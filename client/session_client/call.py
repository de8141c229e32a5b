"""A call: one caller's wait for the reply to one request."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Generic, TypeVar, cast
from uuid import uuid4

from aio_pika import DeliveryMode, Message
from pydantic import BaseModel, ValidationError

from session_client.errors import ReplyInvalid, RequestFailed
from session_client.tracing import trace_headers
from session_contracts import RequestStatus, problems
from session_contracts.amqp import CONTENT_TYPE, REQUEST_ID
from session_contracts.operation import PublishedOperation

if TYPE_CHECKING:
    from session_contracts import BaseRequest, BaseResponse, Operation

P = TypeVar("P", bound=BaseModel)
R = TypeVar("R", bound=BaseModel)

FIRST_REPLY_WAIT_SECONDS = 5.0
"""How long the first try of a call waits; doubled after every try that ends without a reply."""
MAX_BODY_BYTES = 16 * 1024 * 1024
"""A larger message makes the broker close the channel, and every call on it would suffer."""


class Call(Generic[P, R]):
    """``correlation_id`` is the call's own: two calls with one request id both get their reply.

    Raises:
        ValueError: a worker would not accept the request.
    """

    def __init__(self, operation: Operation[P, R], request: BaseRequest[P], timeout: float) -> None:
        self.operation = operation
        self.request = request
        self.body = _body(operation, request)
        self.correlation_id = str(uuid4())
        self.timeout = timeout
        self.deadline = _now() + timeout
        self.accepted = False
        """Whether the broker has taken the request at least once."""
        self.obstacle: str | None = None
        """What stood in the way of the last try."""
        self.replied: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._reply_wait = FIRST_REPLY_WAIT_SECONDS

    def message(self, reply_to: str) -> Message:
        """For the next publish. It expires at our deadline: nobody need carry the request out after that."""
        message = Message(
            self.body,
            content_type=CONTENT_TYPE,
            correlation_id=self.correlation_id,
            delivery_mode=DeliveryMode.PERSISTENT,
            expiration=max(0, self.left),
            headers={REQUEST_ID: str(self.request.request_id)} | trace_headers(),
            message_id=str(uuid4()),
            reply_to=reply_to,
            timestamp=datetime.now(UTC),
            type=self.operation.request_type,
        )
        message.priority = None  # aio-pika would send a 0
        return message

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
    def reply_wait(self) -> float:
        """Seconds to wait for what was sent, before it is sent again."""
        return min(self._reply_wait, self.left)

    def wait_longer(self) -> None:
        """Double the next wait: a worker that is busy must not get ever more to do."""
        self._reply_wait *= 2

    def response(self) -> BaseResponse[R]:
        """The answer: completed, with a payload.

        Raises:
            RequestFailed: it is ``failed``.
            ReplyInvalid: it breaks the contract.
        """
        try:
            response = self.operation.response_model.model_validate_json(self.replied.result())
        except ValidationError as error:
            raise ReplyInvalid(self.request.request_id, problems(error)) from None
        if response.status is RequestStatus.FAILED:
            raise RequestFailed(response)
        if response.status is not RequestStatus.COMPLETED:
            raise ReplyInvalid(self.request.request_id, f"status {response.status} is not final")
        if response.request_id != self.request.request_id:
            raise ReplyInvalid(self.request.request_id, "it is about another request")
        if response.payload is None:
            raise ReplyInvalid(self.request.request_id, "it is completed and has no payload")
        return cast("BaseResponse[R]", response)  # says to type checkers that there is a payload


def _body(operation: Operation[P, R], request: BaseRequest[P]) -> bytes:
    if request.operation != operation.name:
        raise ValueError(f"operation: the request is one of {request.operation}, not of {operation.name}")
    body = request.model_dump_json(by_alias=True).encode()
    if len(body) > MAX_BODY_BYTES:
        raise ValueError(f"the request is larger than {MAX_BODY_BYTES} bytes; put less into it")
    if not isinstance(operation, PublishedOperation):
        # A model of the user's may hold what becomes something else as JSON, or is no JSON for a worker: NaN,
        # a NUL character, what was constructed without a check.
        try:
            operation.read(body)
        except ValidationError as error:
            raise ValueError(problems(error)) from None
    return body


def _now() -> float:
    return asyncio.get_running_loop().time()
