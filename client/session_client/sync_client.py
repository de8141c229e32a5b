"""The requester for code that blocks: Flask, Django, scripts."""

from __future__ import annotations

import asyncio
import os
import weakref
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar, overload

from pydantic import BaseModel

from session_client.background import Background
from session_client.client import SessionClient
from session_client.errors import ClientClosed
from session_contracts import (
    CREATE_SESSION,
    BaseRequest,
    CreateSessionRequest,
    CreateSessionResponse,
    Operation,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping
    from types import TracebackType
    from uuid import UUID

    from session_contracts import BaseResponse, SessionClosedPayload, SessionListPayload, SessionPayload

P = TypeVar("P", bound=BaseModel)
R = TypeVar("R", bound=BaseModel)
T = TypeVar("T")


class SyncSessionClient:
    """``SessionClient`` for code that blocks: the same arguments, methods and errors.

    ``with SyncSessionClient(url) as client: response = client.create_session(user_id="ada")``

    One for the whole program will do: any number of threads may use it at once, over one connection. It can
    be made before the program forks: each process connects by itself, with its first call. Until then nothing
    is connected, and no thread runs.

    Raises:
        ValueError: an argument breaks its rule.
    """

    def __init__(
        self,
        url: str,
        *,
        name: str = "client",
        prefix: str = "session",
        reply: Literal["queue", "direct"] = "queue",
    ) -> None:
        self._begin(partial(SessionClient, url, name=name, prefix=prefix, reply=reply))

    def _begin(self, new_client: Callable[[], SessionClient]) -> None:
        new_client()  # to have its arguments checked
        self._new_client = new_client
        self._backgrounds: dict[int, Background] = {}
        """By process: what a fork brings along is of no use to the child, but must be kept as it is. An event
        loop that the child frees would stop its parent's."""
        self._closed = False
        weakref.finalize(self, _close_here, self._backgrounds)  # at the latest when the program ends

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def open(self, *, wait: bool = True) -> None:
        """Connect, if this process has not; ``with`` does it. Without it, the first call connects as with
        ``wait=False``.

        With ``wait=False``, return at once and connect in the background: calls wait for the broker within
        their own ``timeout``.

        Raises:
            ConnectionFailed: no broker could be used; a sentence without password. It can be tried again.
            ClientClosed: it was closed.
        """
        self._background().open(wait=wait)

    def close(self) -> None:
        """End waiting calls with ClientClosed, delete the reply queue, disconnect. Bounded in time."""
        self._closed = True
        _close_here(self._backgrounds)

    def call(
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
        return self._run(
            lambda client: client.call(
                operation,
                payload,
                user_id=user_id,
                session_id=session_id,
                timeout=timeout,
                request_id=request_id,
                metadata=metadata,
            )
        )

    def create_session(
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
        return self._run(
            lambda client: client.create_session(
                user_id=user_id,
                casefile_id=casefile_id,
                title=title,
                timeout=timeout,
                request_id=request_id,
                metadata=metadata,
            )
        )

    def get_session(
        self,
        session_id: str,
        *,
        user_id: str,
        timeout: float = 30.0,
        request_id: UUID | str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> BaseResponse[SessionPayload]:
        """Read a session of the user's."""
        return self._run(
            lambda client: client.get_session(
                session_id, user_id=user_id, timeout=timeout, request_id=request_id, metadata=metadata
            )
        )

    def list_sessions(
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
        return self._run(
            lambda client: client.list_sessions(
                user_id=user_id,
                casefile_id=casefile_id,
                active_only=active_only,
                limit=limit,
                offset=offset,
                timeout=timeout,
                request_id=request_id,
                metadata=metadata,
            )
        )

    def close_session(
        self,
        session_id: str,
        *,
        user_id: str,
        timeout: float = 30.0,
        request_id: UUID | str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> BaseResponse[SessionClosedPayload]:
        """Close a session of the user's; of one that is closed, learn when it was."""
        return self._run(
            lambda client: client.close_session(
                session_id, user_id=user_id, timeout=timeout, request_id=request_id, metadata=metadata
            )
        )

    @overload
    def request(self, request: CreateSessionRequest, *, timeout: float = 30.0) -> CreateSessionResponse: ...

    @overload
    def request(
        self, request: BaseRequest[P], operation: Operation[P, R], *, timeout: float = 30.0
    ) -> BaseResponse[R]: ...

    def request(
        self,
        request: BaseRequest[Any],
        operation: Operation[Any, Any] = CREATE_SESSION,
        *,
        timeout: float = 30.0,
    ) -> BaseResponse[Any]:
        """Send a request that you have made: ``operation.request_model(…)``."""
        return self._run(lambda client: client.request(request, operation, timeout=timeout))

    def _run(self, ask: Callable[[SessionClient], Coroutine[Any, Any, T]]) -> T:
        return self._background().run(ask)

    def _background(self) -> Background:
        """The one of this process.

        Raises:
            RuntimeError: the caller's event loop would stand still.
            ClientClosed: the client was closed.
        """
        if _is_in_a_loop():
            raise RuntimeError(
                "SyncSessionClient would block this event loop; use SessionClient here, "
                "or call it in a thread (asyncio.to_thread)"
            )
        if self._closed:
            raise ClientClosed("the client is closed; make a new one")
        process = os.getpid()
        found = self._backgrounds.get(process)
        # Of two threads that come here at once, one's is taken; the other's has begun nothing.
        return found or self._backgrounds.setdefault(process, Background(self._new_client))


def _close_here(backgrounds: dict[int, Background]) -> None:
    if background := backgrounds.get(os.getpid()):
        background.close()


def _is_in_a_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
