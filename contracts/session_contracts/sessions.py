"""The built-in operations: create, get, list and close sessions."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from session_contracts.envelopes import BaseRequest, BaseResponse, Contract, Response
from session_contracts.operation import PublishedOperation
from session_contracts.types import RULE, CasefileId, JsonObject, Rule, SessionId, Title, UserId

MAX_OFFSET = 2**53
"""The largest whole number that every JSON library reads."""

NIL_SESSION_ID = "ts_000000_none"
"""The session id in the response to a request for which no id was reserved."""


class CreateSessionPayload(Contract):
    """Request payload for session creation."""

    casefile_id: CasefileId | None = Field(
        default=None, description="Optional associated casefile ID", examples=["cf_251013_abc123"]
    )
    title: Title | None = Field(
        default=None, description="Optional title of the session", examples=["Search of the east wing"]
    )


class CreateSessionRequest(BaseRequest[CreateSessionPayload]):
    """Request for session creation."""

    operation: Annotated[Literal["create_session"], Rule("must be create_session")] = Field(
        default="create_session", description="Operation to carry out"
    )


class SessionCreatedPayload(Contract):
    """Response payload for session creation."""

    session_id: str = Field(
        description="Created session ID (ts_yymmdd_xxx)", examples=["ts_251013_tool001", "ts_250920_exec456"]
    )
    casefile_id: Annotated[str, Field(description="Casefile ID in format cf_YYMMDD_code")] | None = Field(
        default=None, description="Optional associated casefile ID", examples=["cf_251013_abc123"]
    )
    created_at: str = Field(
        description="Session creation timestamp (ISO 8601)",
        examples=["2025-10-13T14:30:00Z", "2025-10-13T09:15:30+00:00"],
    )


class CreateSessionResponse(BaseResponse[SessionCreatedPayload]):
    """Response for session creation."""


CREATE_SESSION = PublishedOperation(
    "create_session",
    "create",
    CreateSessionRequest,
    CreateSessionResponse,
    payload=CreateSessionPayload,
    result=SessionCreatedPayload,
)


class GetSessionPayload(Contract):
    """Request payload for reading a session."""

    session_id: SessionId = Field(description="Session to read", examples=["ts_251013_tool001"])


class GetSessionRequest(BaseRequest[GetSessionPayload]):
    """Request for reading a session."""

    operation: Annotated[Literal["get_session"], Rule("must be get_session")] = Field(
        default="get_session", description="Operation to carry out"
    )


class SessionSummary(Contract):
    """A session as a list shows it."""

    session_id: str = Field(description="Session ID", examples=["ts_251013_tool001"])
    user_id: str = Field(description="Whose session it is")
    casefile_id: str | None = Field(default=None, description="Associated casefile ID, if there is one")
    title: str | None = Field(default=None, description="Title of the session, if it has one")
    created_at: str = Field(description="Session creation timestamp (ISO 8601)")
    updated_at: str = Field(
        description="Time of the last recorded move of a request that belongs to the session (ISO 8601)"
    )
    active: bool = Field(description="Whether the session is open")
    request_count: int = Field(
        description="Recorded requests that named the session, the one that created it included"
    )


class SessionPayload(SessionSummary):
    """Response payload for reading a session."""

    event_count: int = Field(description="Moves in the histories of the requests that are counted")
    metadata: JsonObject = Field(
        default_factory=dict, description="What the handler added when the session was created"
    )


class GetSessionResponse(Response[SessionPayload]):
    """Response for reading a session."""


class ListSessionsPayload(Contract):
    """Request payload for listing sessions."""

    user_id: UserId | None = Field(
        default=None, description="Whose sessions to list: only the requester's own are ever listed"
    )
    casefile_id: CasefileId | None = Field(default=None, description="Only the sessions of this casefile")
    active_only: Annotated[bool, Field(strict=True)] = Field(
        default=True, description="Only the sessions that are open"
    )
    limit: Annotated[int, Field(strict=True, ge=1, le=100)] = Field(
        default=50, description="At most so many sessions, 1 to 100"
    )
    offset: Annotated[int, Field(strict=True, ge=0, le=MAX_OFFSET)] = Field(
        default=0, description="How many sessions to leave out, the newest first"
    )


class ListSessionsRequest(BaseRequest[ListSessionsPayload]):
    """Request for listing sessions."""

    operation: Annotated[Literal["list_sessions"], Rule("must be list_sessions")] = Field(
        default="list_sessions", description="Operation to carry out"
    )

    @field_validator("payload")
    @classmethod
    def _check_user(cls, payload: ListSessionsPayload, info: ValidationInfo) -> ListSessionsPayload:
        if payload.user_id is not None and payload.user_id != info.data.get("user_id", payload.user_id):
            raise PydanticCustomError(RULE, "user_id must be that of the request, or absent")
        return payload


class SessionListPayload(Contract):
    """Response payload for listing sessions."""

    sessions: list[SessionSummary] = Field(description="The sessions, the newest first")
    total_count: int = Field(description="How many sessions there are, whatever offset and limit say")
    offset: int = Field(description="How many sessions were left out")
    limit: int = Field(description="How many sessions were asked for at most")


class ListSessionsResponse(Response[SessionListPayload]):
    """Response for listing sessions."""


class CloseSessionPayload(Contract):
    """Request payload for closing a session."""

    session_id: SessionId = Field(description="Session to close", examples=["ts_251013_tool001"])


class CloseSessionRequest(BaseRequest[CloseSessionPayload]):
    """Request for closing a session."""

    operation: Annotated[Literal["close_session"], Rule("must be close_session")] = Field(
        default="close_session", description="Operation to carry out"
    )


class SessionClosedPayload(Contract):
    """Response payload for closing a session."""

    session_id: str = Field(description="Session that is closed", examples=["ts_251013_tool001"])
    closed_at: str = Field(description="When it was closed for the first time (ISO 8601)")
    total_requests: int = Field(
        description="Recorded requests that named the session, the one that created it included"
    )
    total_events: int = Field(description="Moves in the histories of the requests that are counted")
    duration_seconds: float | None = Field(
        default=None, description="Seconds from its creation until it was closed"
    )


class CloseSessionResponse(Response[SessionClosedPayload]):
    """Response for closing a session."""


GET_SESSION = PublishedOperation(
    "get_session",
    "get",
    GetSessionRequest,
    GetSessionResponse,
    payload=GetSessionPayload,
    result=SessionPayload,
)
LIST_SESSIONS = PublishedOperation(
    "list_sessions",
    "list",
    ListSessionsRequest,
    ListSessionsResponse,
    payload=ListSessionsPayload,
    result=SessionListPayload,
)
CLOSE_SESSION = PublishedOperation(
    "close_session",
    "close",
    CloseSessionRequest,
    CloseSessionResponse,
    payload=CloseSessionPayload,
    result=SessionClosedPayload,
)

BUILT_IN = (CREATE_SESSION, GET_SESSION, LIST_SESSIONS, CLOSE_SESSION)
"""The operations that every worker knows."""
