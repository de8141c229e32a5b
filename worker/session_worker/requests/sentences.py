"""What a requester reads when nothing came of its request. It shows nothing of the worker's insides."""

from __future__ import annotations

from session_contracts import ErrorCode

SENTENCES = {
    ErrorCode.EXPIRED: "the request's expiration passed first; nothing was created, send a new request",
    ErrorCode.CRASHED_WORKER: "{crashes} workers ended while they handled this request; nothing was created",
    ErrorCode.HANDLER_FAILED: "the request failed {attempts} time(s); nothing was created",
    ErrorCode.HANDLER_TIMEOUT: "the request was not handled in time, {attempts} time(s); nothing was created",
    ErrorCode.HANDLER_RESULT_INVALID: "the handler's result does not fit into an answer; nothing was created",
    ErrorCode.IDEMPOTENCY_CONFLICT: "request_id: was used before with other content; use a new one",
    ErrorCode.INTERNAL_ERROR: "the worker could not process this request; nothing was created",
}


def sentence(code: ErrorCode, *, attempts: int = 0, crashes: int = 0) -> str:
    """Return the sentence for a code that is not explained by what was wrong with the request itself."""
    return SENTENCES[code].format(attempts=attempts, crashes=crashes)
