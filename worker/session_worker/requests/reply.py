"""The bytes of an answer. Built once per outcome; every copy sent later is the stored one."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from pydantic_core import to_json

from session_contracts import ErrorCode, RequestStatus
from session_contracts.errors import ERRORS
from session_contracts.sessions import NIL_SESSION_ID

if TYPE_CHECKING:
    from collections.abc import Mapping
    from uuid import UUID

    from session_worker.ledger.protocol import Claimed
    from session_worker.requests.request import Refusal, Request

OUR_FACTS = dict.fromkeys(("attempts", "worker_id", "processing_ms"))
"""What every answer's metadata holds beside the handler's: it counts towards the limits, and wins."""
FACTS_OF_FAILURE = frozenset(("error_code", "retryable", "rejection_code"))
"""What the metadata of a completed answer never holds, whatever the handler says."""

SENTENCES = {
    ErrorCode.EXPIRED: "the request's expiration passed first; nothing was created, send a new request",
    ErrorCode.CRASHED_WORKER: "{crashes} workers ended while they handled this request; nothing was created",
    ErrorCode.HANDLER_FAILED: "the request failed {attempts} time(s); nothing was created",
    ErrorCode.HANDLER_TIMEOUT: "the request was not handled in time, {attempts} time(s); nothing was created",
    ErrorCode.HANDLER_RESULT_INVALID: "the handler's result does not fit into an answer; nothing was created",
    ErrorCode.IDEMPOTENCY_CONFLICT: "request_id: was used before with other content; use a new one",
    ErrorCode.INTERNAL_ERROR: "the worker could not process this request; nothing was created",
}


def sentence(code: ErrorCode, claimed: Claimed | None = None) -> str:
    """What the requester reads. It shows nothing of the worker's insides."""
    if claimed is None:
        return SENTENCES[code]
    return SENTENCES[code].format(attempts=claimed.attempt, crashes=claimed.crashes)


def timestamp(moment: datetime) -> str:
    """ISO 8601 with offset, as all our times on the wire."""
    moment = moment if moment.tzinfo is UTC else moment.astimezone(UTC)
    return moment.isoformat(timespec="milliseconds")


class ReplyBuilder:
    """Builds answers in the name of one worker."""

    def __init__(self, worker_id: str) -> None:
        self._worker_id = worker_id

    def completed(
        self, request: Request, claimed: Claimed, handler_metadata: Mapping[str, Any], seconds: float
    ) -> bytes:
        metadata = {name: fact for name, fact in handler_metadata.items() if name not in FACTS_OF_FAILURE}
        metadata |= self._facts(claimed.attempt, seconds)
        return _encode(request.request_id, _payload(request, claimed), metadata)

    def failed(
        self,
        request: Request,
        claimed: Claimed,
        code: ErrorCode,
        error: str,
        seconds: float,
        *,
        rejection_code: str | None = None,
    ) -> bytes:
        metadata = _error_facts(code) | self._facts(claimed.attempt, seconds)
        if rejection_code is not None:
            metadata["rejection_code"] = rejection_code
        return _encode(request.request_id, _payload(request, claimed), metadata, error)

    def refused(self, refusal: Refusal) -> bytes:
        """A refusal reserved nothing: it carries the nil session id and the time of the refusal."""
        payload = {
            "session_id": NIL_SESSION_ID,
            "casefile_id": refusal.casefile_id,
            "created_at": timestamp(datetime.now(UTC)),
        }
        metadata = _error_facts(refusal.code) | self._facts(0, 0.0)
        return _encode(refusal.request_id, payload, metadata, refusal.error)

    def _facts(self, attempts: int, seconds: float) -> dict[str, Any]:
        return {"attempts": attempts, "worker_id": self._worker_id, "processing_ms": round(seconds * 1000, 3)}


def _error_facts(code: ErrorCode) -> dict[str, Any]:
    return {"error_code": code.value, "retryable": ERRORS[code].retryable}


def _payload(request: Request, claimed: Claimed) -> dict[str, Any]:
    return {
        "session_id": claimed.session_id,
        "casefile_id": request.casefile_id,
        "created_at": timestamp(claimed.received_at),
    }


def _encode(
    request_id: UUID, payload: dict[str, Any], metadata: dict[str, Any], error: str | None = None
) -> bytes:
    """What ``CreateSessionResponse`` would write. Every value here was checked where it came in, and checking
    all once more would take longer than writing; a test holds the two together."""
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
