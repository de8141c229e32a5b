"""What every request and every response carries, whatever its payload."""

from __future__ import annotations

from typing import Generic, TypeVar
from uuid import UUID  # noqa: TC003 - pydantic reads the annotation

from pydantic import BaseModel, ConfigDict, Field

from session_contracts.status import RequestStatus  # noqa: TC001 - pydantic reads the annotation
from session_contracts.types import (
    JsonObject,
    RequestId,
    SessionId,
    Texts,
    Timestamp,
    UserId,
    new_request_id,
    now,
)

P = TypeVar("P", bound=BaseModel)


class Contract(BaseModel):
    """Base of all models. They are frozen, and ignore the fields that only a newer sender knows."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class BaseRequest(Contract, Generic[P]):
    """Request for an operation.

    The defaults of ``request_id`` and ``timestamp`` are for requesters. A worker must not use them: each
    redelivery would become a new request.
    """

    request_id: RequestId = Field(
        default_factory=new_request_id,
        description="Random, global ID of the request; the same ID is the same request",
    )
    session_id: SessionId | None = Field(
        default=None,
        description="Existing session the request belongs to (ts_yymmdd_xxx or cs_yymmdd_xxx); "
        "never the ID of a new one",
        examples=["ts_251013_tool001", "cs_251013_chat001"],
    )
    user_id: UserId = Field(
        description="Who asks, as claimed by the requester", examples=["user@example.com", "service-7"]
    )
    operation: str = Field(description="Operation to carry out; each request names its own")
    payload: P = Field(description="Request payload")
    timestamp: Timestamp = Field(
        default_factory=now,
        description="Request timestamp (ISO 8601)",
        examples=["2025-10-13T14:30:00Z"],
    )
    metadata: JsonObject = Field(default_factory=dict, description="Additional metadata for the request")
    context_requirements: Texts = Field(default_factory=list, description="Context the operation needs")
    hooks: Texts = Field(default_factory=list, description="Hooks to run with the operation")
    policy_hints: JsonObject = Field(default_factory=dict, description="Hints for policies")
    route_directives: JsonObject = Field(default_factory=dict, description="Directives for routing")


class Response(Contract, Generic[P]):
    """Response to a request. Read ``status`` first: only a completed one is sure to have a payload."""

    request_id: UUID = Field(description="ID of the originating request")
    status: RequestStatus = Field(description="Request processing status")
    payload: P | None = Field(description="Response payload; null if status is FAILED")
    timestamp: str = Field(default_factory=now, description="Response timestamp")
    error: str | None = Field(default=None, description="Error message if status is FAILED")
    metadata: JsonObject = Field(default_factory=dict, description="Additional metadata for the response")


class BaseResponse(Response[P], Generic[P]):
    """Response that has a payload in any case, a failed one too."""

    payload: P = Field(description="Response payload")
