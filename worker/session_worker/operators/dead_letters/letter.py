"""A dead letter: a parked copy of a request, and what its headers say."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import pydantic_core

from session_contracts import amqp
from session_worker.messages.delivery import Delivery, newest_death
from session_worker.requests.parse import as_id, identify

if TYPE_CHECKING:
    from uuid import UUID

    from session_contracts import Operation


class Fate(StrEnum):
    """What a redrive does with a letter. All but the first two stay on the parking lot."""

    REOPENED = "reopened"
    """Sent, and its request has a new round: attempts count from 0."""
    RESENT = "resent"
    """Sent, with nothing to re-open: its request was refused when it first came, is open, or was answered."""
    CUT = "cut"
    """Only the beginning of its body was kept."""
    ILLEGIBLE = "illegible"
    """Its properties cannot be decoded."""
    UNKNOWN = "unknown"
    """The ledger has no entry: it was pruned, or this is not the workers' ledger."""
    CONFLICT = "conflict"
    """Another request has the id by now."""

    @property
    def stays(self) -> bool:
        return self not in (Fate.REOPENED, Fate.RESENT)


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One message on the parking lot of ``operation``.

    ``code`` is None where the broker itself parked the message, after it came back too often from the slow
    lane. ``letter_id`` identifies the letter even if the request's id is unknown. ``size`` counts the bytes
    of the whole body; a ``cut`` letter has only the beginning of it.
    """

    operation: Operation[Any, Any]
    delivery: Delivery
    request_id: UUID | None
    letter_id: UUID | None
    code: str | None
    exception_type: str | None
    message: str
    stacktrace: str | None
    attempts: int
    failed_at: datetime | None
    first_seen_at: datetime | None
    worker_id: str | None
    queue: str | None
    redrives: int
    size: int

    @classmethod
    def of(cls, operation: Operation[Any, Any], delivery: Delivery) -> DeadLetter:
        """Read a delivery from the operation's parking lot. It never raises, whatever the headers are."""
        headers = delivery.headers
        death = newest_death(headers)
        code = _text(headers.get(amqp.ERROR_CODE))
        # The message_id of a copy names the copy, not the request.
        request_id = identify(delivery, body_read=code is None)
        lost = f"the broker gave it up: {_text(death.get('reason')) or 'nobody knows why'}"
        size = _count(headers.get(amqp.BODY_BYTES))
        return cls(
            operation=operation,
            delivery=delivery,
            request_id=request_id,
            letter_id=as_id(delivery.message_id),
            code=code,
            exception_type=_text(headers.get(amqp.EXCEPTION_TYPE)),
            message=_text(headers.get(amqp.EXCEPTION_MESSAGE)) or ("" if code else lost),
            stacktrace=_text(headers.get(amqp.EXCEPTION_STACKTRACE)),
            attempts=_count(headers.get(amqp.ATTEMPTS)),
            failed_at=_moment(headers.get(amqp.FAILED_AT)) or _moment(death.get("time")),
            first_seen_at=_moment(headers.get(amqp.FIRST_SEEN_AT)),
            worker_id=_text(headers.get(amqp.WORKER_ID)),
            queue=_text(headers.get(amqp.ORIGINAL_QUEUE)) or _text(death.get("queue")),
            redrives=delivery.redrives,
            size=max(size, len(delivery.body), delivery.cut.size if delivery.cut else 0),
        )

    @property
    def outlook(self) -> Fate:
        """Foretell what a redrive does with the letter, without asking the ledger."""
        if self.delivery.illegible:
            return Fate.ILLEGIBLE
        if self.cut:
            return Fate.CUT
        return Fate.RESENT if self.refused else Fate.REOPENED

    def document(self, *, whole: bool = False) -> dict[str, Any]:
        """The letter as a JSON document, whose field names are part of the interface.

        ``whole``: with its body and stack trace, which may be long.
        """
        body = self.delivery.body.decode("utf-8", "backslashreplace")
        return {
            "request_id": self.request_id and str(self.request_id),
            "letter_id": self.letter_id and str(self.letter_id),
            "operation": self.operation.name,
            "error_code": self.code,
            "exception_type": self.exception_type,
            "message": self.message,
            "attempts": self.attempts,
            "redrives": self.redrives,
            "user_id": self.user_id,
            "reply_to": self.delivery.reply_to,
            "correlation_id": self.delivery.correlation_id,
            "failed_at": self.failed_at and self.failed_at.isoformat(),
            "first_seen_at": self.first_seen_at and self.first_seen_at.isoformat(),
            "worker_id": self.worker_id,
            "queue": self.queue,
            "body_bytes": self.size,
            "redrive": str(self.outlook),
        } | ({"stacktrace": self.stacktrace, "body": body} if whole else {})

    @property
    def cut(self) -> bool:
        return self.size > len(self.delivery.body)

    @property
    def refused(self) -> bool:
        """Whether the request was refused: nothing was claimed, and no entry written."""
        return self.attempts == 0 and self.first_seen_at is None

    @property
    def user_id(self) -> str | None:
        """Who asks, according to the body."""
        if self.cut:
            return None
        try:
            document: Any = pydantic_core.from_json(self.delivery.document)
        except ValueError:
            return None
        return _text(document.get("user_id")) if isinstance(document, dict) else None


@dataclass(frozen=True, slots=True)
class Filter:
    """Which letters are wanted: those that fit every field given. ``letter`` is a request's or its own id."""

    code: str | None = None
    exception: str | None = None
    since: datetime | None = None
    user: str | None = None
    letter: UUID | None = None

    def fits(self, letter: DeadLetter) -> bool:
        return (
            self.code in (None, letter.code)
            and self.exception in (None, letter.exception_type)
            and (self.since is None or (letter.failed_at is not None and letter.failed_at >= self.since))
            and self.letter in (None, letter.request_id, letter.letter_id)
            and (self.user is None or letter.user_id == self.user)  # last: it reads the body
        )


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _count(value: Any) -> int:
    return int(value) if isinstance(value, int) and value > 0 else 0


def _moment(value: Any) -> datetime | None:
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else value
    except ValueError:
        return None
    # A moment at the edge of the calendar has no date in some time zones.
    if not isinstance(moment, datetime) or not 1 < moment.year < 9999:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
