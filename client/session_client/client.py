"""The requester: asks for operations, and returns their answers."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar, cast, overload
from uuid import UUID, uuid4

from pydantic import BaseModel, ValidationError

from session_client.call import Call
from session_client.calls import Calls
from session_client.errors import ClientClosed, ConnectionFailed
from session_client.link_keeper import parse_urls
from session_client.net.errors import LinkLostError
from session_contracts import (
    CLOSE_SESSION,
    CREATE_SESSION,
    GET_SESSION,
    LIST_SESSIONS,
    BaseRequest,
    CreateSessionRequest,
    CreateSessionResponse,
    Names,
    Operation,
    problems,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from session_contracts import BaseResponse, SessionClosedPayload, SessionListPayload, SessionPayload

P = TypeVar("P", bound=BaseModel)
R = TypeVar("R", bound=BaseModel)

MAX_TIMEOUT = 86_400.0


class SessionClient:
    """Asks the workers over RabbitMQ: for sessions, and for operations of your own.

    ``async with SessionClient(url) as client: response = await client.create_session(user_id="ada")``

    Args:
        url: ``amqp://user:password@host:port/vhost?heartbeat=10`` or ``amqps://…``. For a cluster, the URLs
            of all nodes, separated by commas. Nodes, and the addresses of each, are tried in order; one that
            does not answer holds up the next one only for a moment.
        name: becomes part of the reply queue's name.
        prefix: the workers' setting of that name.
        reply: ``"queue"`` makes a durable reply queue, which outlives a lost connection. ``"direct"`` uses
            RabbitMQ's direct reply-to: that needs no queue and no right to declare one, but replies sent
            while the connection is away are lost (the call then asks again).

    Raises:
        ValueError: an argument breaks its rule.

    Every method that asks takes:

    - ``user_id``: who asks.
    - ``timeout``: seconds, at most a day, after which the call ends whatever happens.
    - ``request_id``: a random UUID of yours, with which you can ask again, from anywhere, without having it
      done a second time.
    - ``metadata``: a JSON object for the worker's handler.

    It returns the response, which is ``completed`` and has a payload, or raises:

    - ValueError: an argument breaks its rule; nothing was sent.
    - RequestFailed, RequestTimedOut, RequestNotRouted, ReplyInvalid, ClientClosed: ``errors.py``.
    - RuntimeError: the client was opened in another event loop.
    """

    def __init__(
        self,
        url: str,
        *,
        name: str = "client",
        prefix: str = "session",
        reply: Literal["queue", "direct"] = "queue",
    ) -> None:
        for field, text in (("name", name), ("prefix", prefix)):
            if not re.fullmatch(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,63}", text):
                raise ValueError(f"{field}: must be 1 to 64 letters, digits, dots, underscores or hyphens")
        if reply not in {"queue", "direct"}:
            raise ValueError('reply: must be "queue" or "direct"')
        names = Names(prefix)
        self._begin(
            Calls(
                parse_urls(url, f"session-client {name}"),
                names,
                f"{names.replies}.{name}.{uuid4().hex[:12]}" if reply == "queue" else None,
            )
        )

    def _begin(self, calls: Calls) -> None:
        self._calls = calls
        self._loop: asyncio.AbstractEventLoop | None = None
        self._opened = False
        self._closed = False

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def open(self, *, wait: bool = True) -> None:
        """Connect; ``async with`` does it.

        With ``wait=False``, return at once and connect in the background: an application can start while the
        broker is away. Its calls wait for the broker within their own ``timeout``.

        Raises:
            ConnectionFailed: no broker could be used; a sentence without password.
            ClientClosed: it was closed meanwhile, or opened before.
        """
        if self._opened:
            raise ClientClosed("a client is opened once; make a new one")
        self._opened = True
        self._loop = asyncio.get_running_loop()
        try:
            await self._calls.start(wait=wait)
        except LinkLostError as error:
            raise ConnectionFailed(str(error)) from error
        if self._closed:
            await self._calls.stop()
            raise ClientClosed("the client was closed while it connected")

    async def close(self) -> None:
        """End waiting calls with ClientClosed, delete the reply queue, disconnect. Bounded in time."""
        self._check_loop()
        self._opened = self._closed = True
        await self._calls.stop()

    async def call(
        self,
        operation: Operation[P, R],
        payload: P,
        *,
        user_id: str,
        session_id: str | None = None,
        timeout: float = 30.0,
        request_id: UUID | str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> BaseResponse[R]:
        """Have an operation carried out.

        Args:
            session_id: the session that the request belongs to, for operations that want one.
        """
        if not isinstance(payload, operation.payload):
            raise ValueError(  # noqa: TRY004 - as for all arguments
                f"payload: must be {operation.payload.__name__}, which {operation.name} takes, "
                f"not {type(payload).__name__}"
            )
        return await self._ask(
            operation, payload, timeout, user_id, request_id, metadata, session_id=session_id
        )

    async def create_session(
        self,
        *,
        user_id: str,
        casefile_id: str | None = None,
        title: str | None = None,
        timeout: float = 30.0,
        request_id: UUID | str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> CreateSessionResponse:
        """Have a session created."""
        payload = {"casefile_id": casefile_id, "title": title}
        response = await self._ask(CREATE_SESSION, payload, timeout, user_id, request_id, metadata)
        return cast("CreateSessionResponse", response)

    async def get_session(
        self,
        session_id: str,
        *,
        user_id: str,
        timeout: float = 30.0,
        request_id: UUID | str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> BaseResponse[SessionPayload]:
        """Read a session of the user's."""
        payload = {"session_id": session_id}
        return await self._ask(GET_SESSION, payload, timeout, user_id, request_id, metadata)

    async def list_sessions(
        self,
        *,
        user_id: str,
        casefile_id: str | None = None,
        active_only: bool = True,
        limit: int = 50,
        offset: int = 0,
        timeout: float = 30.0,
        request_id: UUID | str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> BaseResponse[SessionListPayload]:
        """List sessions of the user's, the newest first: ``limit`` of them, at most 100, after ``offset``."""
        payload = {
            "casefile_id": casefile_id,
            "active_only": active_only,
            "limit": limit,
            "offset": offset,
        }
        return await self._ask(LIST_SESSIONS, payload, timeout, user_id, request_id, metadata)

    async def close_session(
        self,
        session_id: str,
        *,
        user_id: str,
        timeout: float = 30.0,
        request_id: UUID | str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> BaseResponse[SessionClosedPayload]:
        """Close a session of the user's; of one that is closed, learn when it was."""
        payload = {"session_id": session_id}
        return await self._ask(CLOSE_SESSION, payload, timeout, user_id, request_id, metadata)

    @overload
    async def request(
        self, request: CreateSessionRequest, *, timeout: float = 30.0
    ) -> CreateSessionResponse: ...

    @overload
    async def request(
        self, request: BaseRequest[P], operation: Operation[P, R], *, timeout: float = 30.0
    ) -> BaseResponse[R]: ...

    async def request(
        self,
        request: BaseRequest[Any],
        operation: Operation[Any, Any] = CREATE_SESSION,
        *,
        timeout: float = 30.0,
    ) -> BaseResponse[Any]:
        """Send a request that you have made: ``operation.request_model(…)``."""
        if not 0 < timeout <= MAX_TIMEOUT:
            raise ValueError(f"timeout: must be more than 0 and at most {MAX_TIMEOUT:.0f} seconds")
        self._check_loop()
        call = Call(operation, request, timeout)
        await self._calls.ask(call)
        return call.response()

    async def _ask(
        self,
        operation: Operation[P, R],
        payload: P | Mapping[str, object],
        timeout: float,
        user_id: str,
        request_id: UUID | str | None,
        metadata: Mapping[str, Any] | None,
        **fields: Any,
    ) -> BaseResponse[R]:
        fields |= {"user_id": user_id, "payload": payload, "metadata": dict(metadata or {})}
        if request_id is not None:
            fields["request_id"] = request_id
        try:
            request = operation.request_model.model_validate(fields)
        except ValidationError as error:
            raise ValueError(problems(error)) from None
        return await self.request(request, operation, timeout=timeout)

    def _check_loop(self) -> None:
        if self._loop is not None and self._loop is not asyncio.get_running_loop():
            raise RuntimeError(
                "this client was opened in another event loop; call it there "
                "(asyncio.run_coroutine_threadsafe), or open one of its own here"
            )
