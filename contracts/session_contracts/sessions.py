"""Create a session: the request, the response, and the fingerprint by which two requests are the same."""

from __future__ import annotations

from hashlib import sha256
from typing import Annotated, Literal

from pydantic import Field
from pydantic_core import to_json

from session_contracts.envelopes import BaseRequest, BaseResponse, Contract
from session_contracts.types import CasefileId, Rule, Title

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


def fingerprint(request: CreateSessionRequest) -> bytes:
    """Return what is asked and by whom: SHA-256 (32 bytes) of operation, user and payload as canonical JSON.

    A payload field that is null counts as absent, so that fields may be added later without changing the
    fingerprints of older requests. Text counts as it was sent: composed and decomposed letters differ.
    """
    given = sorted(vars(request.payload).items())
    asked = {
        "operation": request.operation,
        "payload": {name: value for name, value in given if value is not None},
        "user_id": request.user_id,
    }
    return sha256(to_json(asked)).digest()
