"""Plays the worker in tests of requesters: no broker, no worker, milliseconds.

    worker = FakeWorker()
    worker.answer(EXTEND, lambda request: SessionExtended(until="later"))
    async with worker.client() as client:
        response = await client.call(EXTEND, ExtendSession(minutes=5), user_id="ada")
    assert worker.requests[0].payload.minutes == 5

The clients are those of ``session_client``, which check, send and read what they always do. Only what lies
between them and a worker is not there.
"""

from __future__ import annotations

import asyncio
import inspect
from collections import deque
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ValidationError

from session_client.calls import Calls
from session_client.client import SessionClient
from session_client.errors import ClientClosed, RequestNotRouted, RequestTimedOut
from session_client.sync_client import SyncSessionClient
from session_contracts import (
    CREATE_SESSION,
    ERRORS,
    GET_SESSION,
    LIST_SESSIONS,
    NIL_SESSION_ID,
    ErrorCode,
    RequestStatus,
    problems,
)
from session_contracts.types import now

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from uuid import UUID

    from session_client.call import Call
    from session_contracts import BaseRequest, Operation

    Reply = Callable[[Call[Any, Any]], Awaitable[bytes]]

__all__ = ["Failure", "FakeWorker", "NoReply"]

P = TypeVar("P", bound=BaseModel)
R = TypeVar("R", bound=BaseModel)

READS = frozenset({GET_SESSION.name, LIST_SESSIONS.name})
"""A worker answers each request of these anew."""


class Failure(Exception):  # noqa: N818 - an answer, which a function may also raise
    """The answer ``failed``: a client raises RequestFailed. ``error`` is the code's meaning if not given.

    ``rejection_code``: the handler's own code, beside ``ErrorCode.REJECTED``.
    """

    def __init__(
        self,
        code: ErrorCode = ErrorCode.REJECTED,
        error: str | None = None,
        *,
        rejection_code: str | None = None,
    ) -> None:
        self.error = error or ERRORS[code].meaning
        super().__init__(self.error)
        self.facts: dict[str, Any] = {"error_code": code.value, "retryable": ERRORS[code].retryable}
        if rejection_code is not None:
            self.facts["rejection_code"] = rejection_code


CONFLICT = Failure(
    ErrorCode.IDEMPOTENCY_CONFLICT, "request_id: was used before with other content; use a new one"
)


class NoReply(Exception):  # noqa: N818 - as above
    """No answer: a client raises RequestTimedOut, at once and not when its time is over."""


class FakeWorker:
    """Gives the answers that it is told to give, and keeps the ``requests`` it got, copies too."""

    def __init__(self) -> None:
        self.requests: list[BaseRequest[Any]] = []
        self._answers: dict[str, tuple[Operation[Any, Any], deque[Any]]] = {}
        self._replies: dict[UUID, tuple[bytes, bytes]] = {}
        """By request id: the fingerprint of the request, and its reply."""

    def answer(
        self,
        operation: Operation[P, R],
        *answers: R | Failure | NoReply | Callable[[BaseRequest[P]], R | Awaitable[R]],
    ) -> None:
        """Say what becomes of an operation's next requests: of each another one, and of all others the last.

        An answer is a result; a function of the request, which returns a result or raises ``Failure`` or
        ``NoReply``; or one of these two. A request id that has had its reply gets it again, unless it is
        that of a read. Without answers, as at first, no worker serves the operation: RequestNotRouted.
        """
        self._answers[operation.key] = operation, deque(answers)

    def client(self) -> SessionClient:
        """A new client of this worker, to be opened as any."""
        return _Client(self._reply)

    def sync_client(self) -> SyncSessionClient:
        """A new client for code that blocks."""
        return _SyncClient(self.client)

    async def _reply(self, call: Call[Any, Any]) -> bytes:
        """Do what a worker does with the body of a request.

        Raises:
            RequestNotRouted, NoReply: there is no reply.
        """
        operation, answers = self._answers.get(call.operation.key, (call.operation, deque()))
        if not answers:
            raise RequestNotRouted(
                call.request.request_id, f"the FakeWorker has no answer for {operation.name}; give it one"
            )
        try:
            request, fingerprint = operation.read(call.body)
        except ValidationError as error:
            failure = Failure(ErrorCode.INVALID_REQUEST, problems(error))
            return _body(operation, call.request.request_id, failure)
        self.requests.append(request)
        asked, reply = self._replies.get(request.request_id, (fingerprint, None))
        if asked != fingerprint:
            return _body(operation, request.request_id, CONFLICT)
        if reply is not None:
            return reply
        answer = answers.popleft() if len(answers) > 1 else answers[0]
        reply = _body(operation, request.request_id, await _result(answer, request))
        if operation.name in READS:
            return reply
        return self._replies.setdefault(request.request_id, (fingerprint, reply))[1]


async def _result(answer: Any, request: BaseRequest[Any]) -> Any:
    """Return a result or a Failure.

    Raises:
        NoReply: there is neither.
    """
    try:
        if callable(answer):
            answer = answer(request)
        if inspect.isawaitable(answer):
            answer = await answer
    except Failure as failure:
        return failure
    if isinstance(answer, NoReply):
        raise answer
    return answer


def _body(operation: Operation[Any, Any], request_id: UUID, result: Any) -> bytes:
    """The response as a worker would send it."""
    fields: dict[str, Any] = {"request_id": request_id, "status": RequestStatus.COMPLETED, "payload": result}
    facts: dict[str, Any] = {"attempts": 1, "worker_id": "fake-worker", "processing_ms": 0.0}
    if isinstance(result, Failure):
        # The one operation whose failed response has a payload: a session id may have been reserved.
        payload = {"session_id": NIL_SESSION_ID, "created_at": now()}
        fields |= {"status": RequestStatus.FAILED, "error": result.error}
        fields["payload"] = payload if operation is CREATE_SESSION else None
        facts |= result.facts
    elif not isinstance(result, operation.result):
        raise TypeError(
            f"the FakeWorker's answer to {operation.name} must be {operation.result.__name__}, "
            f"not {type(result).__name__}"
        )
    response = operation.response_model.model_validate(fields | {"metadata": facts})
    return response.model_dump_json(by_alias=True).encode()


class _Calls(Calls):
    """They go to a FakeWorker, and over no connection."""

    def __init__(self, reply: Reply) -> None:
        self._reply = reply
        self._is_open = False

    async def start(self, *, wait: bool) -> None:  # noqa: ARG002 - nothing to wait for
        self._is_open = True

    async def stop(self) -> None:
        self._is_open = False

    async def ask(self, call: Call[Any, Any]) -> None:
        request_id = call.request.request_id
        if not self._is_open:
            raise ClientClosed(f"the client is not open; the outcome of request {request_id} is unknown")
        try:
            async with asyncio.timeout(call.timeout) as deadline:
                call.take(await self._reply(call))
        except NoReply:
            raise RequestTimedOut(request_id, call.timeout) from None
        except TimeoutError:
            if not deadline.expired():  # raised by the test's own function
                raise
            raise RequestTimedOut(request_id, call.timeout) from None


class _Client(SessionClient):
    def __init__(self, reply: Reply) -> None:
        self._begin(_Calls(reply))


class _SyncClient(SyncSessionClient):
    def __init__(self, new_client: Callable[[], SessionClient]) -> None:
        self._begin(new_client)
