"""The body of a response. Built once per outcome; every copy that is sent later is the stored one."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol

from pydantic_core import to_json

from session_contracts import ErrorCode, RequestStatus
from session_contracts.errors import ERRORS
from session_contracts.sessions import NIL_SESSION_ID
from session_contracts.types import timestamp
from session_worker.requests.request import NIL_ID
from session_worker.requests.results import FACTS_OF_FAILURE

if TYPE_CHECKING:
    from uuid import UUID

    from session_worker.operations.binding import Binding
    from session_worker.requests.request import Refusal, Request
    from session_worker.requests.results import Success


class Entry(Protocol):
    """What a response needs of the request's entry in the ledger. ``attempt`` counts from 1; 0 is none."""

    @property
    def attempt(self) -> int: ...

    @property
    def session_id(self) -> str | None: ...

    @property
    def received_at(self) -> datetime: ...


class ResponseBuilder:
    """Builds the bodies of responses to requests for one operation, in the name of one worker."""

    def __init__(self, worker_id: str, binding: Binding) -> None:
        self._worker_id = worker_id
        self._has_session = binding.creates_session

    def completed(self, request: Request, entry: Entry, success: Success, seconds: float) -> bytes:
        metadata = {name: fact for name, fact in success.metadata.items() if name not in FACTS_OF_FAILURE}
        metadata |= self._facts(entry.attempt, seconds)
        payload = self._session(request, entry) if self._has_session else success.payload
        return _encode(request.request_id, payload, metadata)

    def failed(
        self,
        request: Request,
        entry: Entry,
        code: ErrorCode,
        error: str,
        seconds: float,
        rejection_code: str | None = None,
    ) -> bytes:
        metadata = _error_facts(code) | self._facts(entry.attempt, seconds)
        if rejection_code is not None:
            metadata["rejection_code"] = rejection_code
        payload = self._session(request, entry) if self._has_session else None
        return _encode(request.request_id, payload, metadata, error)

    def refused(self, refusal: Refusal) -> bytes:
        """A refusal reserved nothing: where a session belongs, it carries the nil session id and the time of
        the refusal."""
        payload = None
        if self._has_session:
            payload = {
                "session_id": NIL_SESSION_ID,
                "casefile_id": refusal.casefile_id,
                "created_at": timestamp(datetime.now(UTC)),
            }
        metadata = _error_facts(refusal.code) | self._facts(0, 0.0)
        return _encode(refusal.request_id or NIL_ID, payload, metadata, refusal.error)

    def _session(self, request: Request, entry: Entry) -> dict[str, Any]:
        return {
            "session_id": entry.session_id,
            "casefile_id": request.casefile_id,
            "created_at": timestamp(entry.received_at),
        }

    def _facts(self, attempts: int, seconds: float) -> dict[str, Any]:
        return {"attempts": attempts, "worker_id": self._worker_id, "processing_ms": round(seconds * 1000, 3)}


def _error_facts(code: ErrorCode) -> dict[str, Any]:
    return {"error_code": code.value, "retryable": ERRORS[code].retryable}


def _encode(request_id: UUID, payload: object, metadata: dict[str, Any], error: str | None = None) -> bytes:
    """Write what the model of the response would. Every value was checked where it came in, and to check all
    of them again would take longer than to write them; a test holds the two together."""
    return to_json(
        {
            "request_id": request_id,
            "status": RequestStatus.COMPLETED if error is None else RequestStatus.FAILED,
            "payload": payload,
            "timestamp": timestamp(datetime.now(UTC)),
            "error": error,
            "metadata": metadata,
        }
    )
