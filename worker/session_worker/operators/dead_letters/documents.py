"""Dead letters as JSON documents, whose field names are part of the interface."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from session_worker.operators.dead_letters.redrive import outlook

if TYPE_CHECKING:
    from datetime import datetime

    from session_worker.operators.dead_letters.groups import Group
    from session_worker.operators.dead_letters.letter import DeadLetter


def document(letter: DeadLetter) -> dict[str, Any]:
    """The letter without its body and stack trace, which may be long."""
    return {
        "request_id": _str(letter.request_id),
        "letter_id": _str(letter.letter_id),
        "error_code": letter.code,
        "exception_type": letter.exception_type,
        "message": letter.message,
        "attempts": letter.attempts,
        "redrives": letter.redrives,
        "user_id": letter.user_id,
        "reply_to": letter.delivery.reply_to,
        "correlation_id": letter.delivery.correlation_id,
        "failed_at": _iso(letter.failed_at),
        "first_seen_at": _iso(letter.first_seen_at),
        "worker_id": letter.worker_id,
        "queue": letter.queue,
        "body_bytes": letter.size,
        "redrive": str(outlook(letter)),
    }


def whole_document(letter: DeadLetter) -> dict[str, Any]:
    """The letter with its body and stack trace."""
    body = letter.delivery.body.decode("utf-8", "backslashreplace")
    return document(letter) | {"stacktrace": letter.stacktrace, "body": body}


def group_document(group: Group) -> dict[str, Any]:
    return {
        "error_code": group.code,
        "exception_type": group.exception_type,
        "count": group.count,
        "first": _iso(group.first),
        "last": _iso(group.last),
        "example": _str(group.example),
        "message": group.message,
    }


def _str(value: object) -> str | None:
    return None if value is None else str(value)


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()
