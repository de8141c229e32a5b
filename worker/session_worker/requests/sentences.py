"""What a requester reads when nothing came of its request. It shows nothing of the worker's insides."""

from __future__ import annotations

from session_contracts import ErrorCode

SENTENCES = {
    ErrorCode.EXPIRED: "the request's expiration passed first; nothing was {done}, send a new request",
    ErrorCode.CRASHED_WORKER: "{crashes} workers ended while they handled this request{therefore}",
    ErrorCode.HANDLER_FAILED: "the request failed {attempts} time(s){therefore}",
    ErrorCode.HANDLER_TIMEOUT: "the request was not handled in time, {attempts} time(s){therefore}",
    ErrorCode.HANDLER_RESULT_INVALID: "the handler's result does not fit into an answer{therefore}",
    ErrorCode.IDEMPOTENCY_CONFLICT: "request_id: was used before with other content; use a new one",
    ErrorCode.INTERNAL_ERROR: "the worker could not process this request{therefore}",
}


def sentence(code: ErrorCode, *, attempts: int = 0, crashes: int = 0, creates: bool = False) -> str:
    """Return the sentence for a code that is not explained by what was wrong with the request itself.

    ``creates``: the request was to create something, and did not. What another one did before it failed,
    nobody knows but its handler.
    """
    return SENTENCES[code].format(
        attempts=attempts,
        crashes=crashes,
        done="created" if creates else "done",
        therefore="; nothing was created" if creates else "",
    )
