"""Why a request failed: the closed list of codes, and the words that explain an invalid body."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

from session_contracts.types import RULE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic import ValidationError
    from pydantic_core import ErrorDetails


class ErrorCode(StrEnum):
    """``metadata.error_code`` of a failed response."""

    UNREADABLE = "unreadable"
    INVALID_REQUEST = "invalid_request"
    TOO_LARGE = "too_large"
    MISSING_REQUEST_ID = "missing_request_id"
    UNSUPPORTED_OPERATION = "unsupported_operation"
    IDEMPOTENCY_CONFLICT = "idempotency_conflict"
    REPLY_TO_FORBIDDEN = "reply_to_forbidden"
    REJECTED = "rejected"
    SESSION_NOT_FOUND = "session_not_found"
    SESSION_CLOSED = "session_closed"
    EXPIRED = "expired"
    HANDLER_FAILED = "handler_failed"
    HANDLER_TIMEOUT = "handler_timeout"
    HANDLER_RESULT_INVALID = "handler_result_invalid"
    CRASHED_WORKER = "crashed_worker"
    INTERNAL_ERROR = "internal_error"


@dataclass(frozen=True, slots=True)
class ErrorInfo:
    """What a code means.

    ``retryable``: the same content, sent as a *new* request, may succeed although nobody fixed anything.
    ``parked``: a copy of the request is on the parking lot, where people find it.
    """

    meaning: str
    who_fixes: Literal["requester", "operator", "handler's author"]
    retryable: bool
    parked: bool = True


ERRORS: Mapping[ErrorCode, ErrorInfo] = MappingProxyType(
    {
        ErrorCode.UNREADABLE: ErrorInfo(
            "The body is not a JSON object, or the message properties cannot be decoded.", "requester", False
        ),
        ErrorCode.INVALID_REQUEST: ErrorInfo(
            "A field is missing or invalid; the error lists up to ten of them.", "requester", False
        ),
        ErrorCode.TOO_LARGE: ErrorInfo(
            "The body is larger than the worker's MAX_BODY_BYTES and was not read.", "requester", False
        ),
        ErrorCode.MISSING_REQUEST_ID: ErrorInfo(
            "Neither the body nor the message properties have a request id; put a random UUID in request_id.",
            "requester",
            False,
        ),
        ErrorCode.UNSUPPORTED_OPERATION: ErrorInfo(
            "The operation in the body is not that of the queue; send each operation with its own routing "
            "key.",
            "requester",
            False,
        ),
        ErrorCode.IDEMPOTENCY_CONFLICT: ErrorInfo(
            "The request id was already used with another operation, user, payload or session; use a new id.",
            "requester",
            True,
        ),
        ErrorCode.REPLY_TO_FORBIDDEN: ErrorInfo(
            "The worker may not reply to this reply_to; use an allowed name, or extend REPLY_TO_ALLOW.",
            "requester",
            False,
        ),
        ErrorCode.REJECTED: ErrorInfo(
            "The handler rejected the request; its own code is in metadata.rejection_code.",
            "requester",
            False,
            parked=False,
        ),
        ErrorCode.SESSION_NOT_FOUND: ErrorInfo(
            "The requester has no session with this id: there is none, or it is somebody else's.",
            "requester",
            False,
            parked=False,
        ),
        ErrorCode.SESSION_CLOSED: ErrorInfo(
            "The session that the request names is closed; name an open one.",
            "requester",
            False,
            parked=False,
        ),
        ErrorCode.EXPIRED: ErrorInfo(
            "The request expired before its first attempt. Nothing was done; send a new request.",
            "requester",
            True,
            parked=False,
        ),
        ErrorCode.HANDLER_FAILED: ErrorInfo(
            "The handler failed on every attempt that there was time for; the parked copy has the details.",
            "operator",
            True,
        ),
        ErrorCode.HANDLER_TIMEOUT: ErrorInfo(
            "The handler exceeded HANDLER_TIMEOUT on its last attempt.", "operator", True
        ),
        ErrorCode.HANDLER_RESULT_INVALID: ErrorInfo(
            "The handler's result is not a JSON object, or is too large.", "handler's author", False
        ),
        ErrorCode.CRASHED_WORKER: ErrorInfo(
            "Workers repeatedly crashed while handling the request.", "handler's author", False
        ),
        ErrorCode.INTERNAL_ERROR: ErrorInfo(
            "The worker itself failed while handling the request, or ended and no time was left for another "
            "attempt; its log has the details.",
            "operator",
            True,
        ),
    }
)


def known_code(value: str | None) -> ErrorCode | None:
    """Return the code that ``value`` names, or None if this release does not know it."""
    return next((code for code in ERRORS if code == value), None)


_PLAIN = re.compile("[A-Za-z0-9_-]+")

MAX_PROBLEMS = 10
MAX_LENGTH = 2000

_WORDS = MappingProxyType(
    {
        "missing": "is required",
        "json_type": "must be JSON",
        "extra_forbidden": "is not a field that is known here",
        "model_type": "must be an object",
        "model_attributes_type": "must be an object",
        "dict_type": "must be an object",
        "list_type": "must be a list",
        "tuple_type": "must be a list",
        "set_type": "must be a list",
        "frozen_set_type": "must be a list",
        "too_short": "must have at least {min_length} items",
        "too_long": "must have at most {max_length} items",
        "string_type": "must be a string",
        "string_too_short": "must have at least {min_length} characters",
        "string_too_long": "must have at most {max_length} characters",
        "string_pattern_mismatch": "must match the published pattern",
        "enum": "must be one of the published values",
        "literal_error": "must be {expected}",
        "union_tag_not_found": "must say which it is in {discriminator}",
        "union_tag_invalid": "must have one of {expected_tags} in {discriminator}",
        "none_required": "must be null",
        "uuid_type": "must be a UUID",
        "uuid_parsing": "must be a UUID",
        "int_type": "must be a whole number",
        "int_parsing": "must be a whole number",
        "int_from_float": "must be a whole number",
        "float_type": "must be a number",
        "float_parsing": "must be a number",
        "finite_number": "must be a finite number",
        "bool_type": "must be true or false",
        "bool_parsing": "must be true or false",
        "decimal_type": "must be a number",
        "decimal_parsing": "must be a number",
        "multiple_of": "must be a multiple of {multiple_of}",
        "greater_than": "must be more than {gt}",
        "greater_than_equal": "must be at least {ge}",
        "less_than": "must be less than {lt}",
        "less_than_equal": "must be at most {le}",
        "datetime_type": "must be an ISO 8601 date and time",
        "datetime_parsing": "must be an ISO 8601 date and time",
        "datetime_from_date_parsing": "must be an ISO 8601 date and time",
        "timezone_aware": "must have an offset from UTC",
        "date_type": "must be a date, as in 2025-10-13",
        "date_parsing": "must be a date, as in 2025-10-13",
        "date_from_datetime_parsing": "must be a date, as in 2025-10-13",
        "date_from_datetime_inexact": "must be a date without a time",
    }
)


def problems(error: ValidationError) -> str:
    """Say what is wrong with a request or a response: ``field: rule; field: rule``.

    The text has at most ten problems and 2000 characters. It never quotes a value: pydantic's own messages
    may, so only the rules of the contracts and the words above are used. However large the body is, the
    contracts find at most one problem in each field.
    """
    found = error.errors(include_url=False, include_input=False)
    said = [f"{_path(each['loc'])}: {rule(each)}" for each in found[:MAX_PROBLEMS]]
    if len(found) > MAX_PROBLEMS:
        said.append(f"and {len(found) - MAX_PROBLEMS} more")
    text = "; ".join(said)
    return text if len(text) <= MAX_LENGTH else text[: MAX_LENGTH - 3] + "..."


def rule(problem: ErrorDetails) -> str:
    """Return the rule that a value breaks, in plain words that never quote the value."""
    kind, message = problem["type"], problem["msg"]
    if kind == RULE:
        return message
    if kind == "json_invalid":
        # The parser quotes only the place: "Invalid JSON: … at line 1 column 2".
        return message[0].lower() + message[1:]
    bounds = {name: _bound(value) for name, value in problem.get("ctx", {}).items()}
    return _WORDS.get(kind, f"is not valid ({kind})").format_map(bounds)


def _bound(value: object) -> str:
    """Write what a model states, which is a number mostly, but may be a date or a duration."""
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _path(location: tuple[int | str, ...]) -> str:
    # The requester may have chosen a key: cut it, and escape it unless it is plain.
    parts = (str(part)[:40] for part in location[:8])
    return ".".join(part if _PLAIN.fullmatch(part) else ascii(part) for part in parts) or "body"
