"""The built-in operations, written as any other: the ledger does what they do, and is their resource."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from session_contracts import (
    CLOSE_SESSION,
    CREATE_SESSION,
    GET_SESSION,
    LIST_SESSIONS,
    ErrorCode,
)
from session_worker.operations.binding import Binding
from session_worker.operations.handler import SessionUnavailable

if TYPE_CHECKING:
    from session_contracts import (
        BaseRequest,
        CloseSessionPayload,
        CreateSessionRequest,
        GetSessionPayload,
        ListSessionsPayload,
        SessionClosedPayload,
        SessionListPayload,
        SessionPayload,
    )
    from session_worker.operations.handler import Context


class Sessions(Protocol):
    """The sessions in a ledger. A session of somebody else's looks like none."""

    async def get_session(self, session_id: str, user_id: str) -> SessionPayload | None: ...

    async def list_sessions(self, asked: ListSessionsPayload, user_id: str) -> SessionListPayload: ...

    async def close_session(self, session_id: str, user_id: str) -> SessionClosedPayload | None:
        """Close a session, or find that it is closed: ``closed_at`` is that of the first time."""


async def create_session(request: CreateSessionRequest, context: Context[object]) -> None:
    """Let the session be created."""


async def get_session(request: BaseRequest[GetSessionPayload], context: Context[Sessions]) -> SessionPayload:
    found = await context.resources.get_session(request.payload.session_id, request.user_id)
    if found is None:
        raise SessionUnavailable(ErrorCode.SESSION_NOT_FOUND)
    return found


async def list_sessions(
    request: BaseRequest[ListSessionsPayload], context: Context[Sessions]
) -> SessionListPayload:
    return await context.resources.list_sessions(request.payload, request.user_id)


async def close_session(
    request: BaseRequest[CloseSessionPayload], context: Context[Sessions]
) -> SessionClosedPayload:
    closed = await context.resources.close_session(request.payload.session_id, request.user_id)
    if closed is None:
        raise SessionUnavailable(ErrorCode.SESSION_NOT_FOUND)
    return closed


CREATE = Binding(CREATE_SESSION, create_session, creates_session=True, built_in=True)
BINDINGS = (
    CREATE,
    Binding(GET_SESSION, get_session, effects="none", built_in=True),
    Binding(LIST_SESSIONS, list_sessions, effects="none", built_in=True),
    Binding(CLOSE_SESSION, close_session, built_in=True),
)
