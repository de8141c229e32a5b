"""A dead letter: a parked copy of a request, and what its headers say."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pydantic_core

from session_contracts import amqp
from session_worker.messages.delivery import Delivery, newest_death
from session_worker.requests.parse import as_id, identify

if TYPE_CHECKING:
    from uuid import UUID


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One message on the parking lot.

    ``code`` is None where the broker put it there itself, having lost it too often in the slow lane.
    ``letter_id`` tells it from others, also where nobody knows the request's id. ``size`` is that of the
    whole body, of which a ``cut`` letter has only the beginning.
    """

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
    def of(cls, delivery: Delivery) -> DeadLetter:
        """Read a delivery from the parking lot; never raises, whatever its headers are."""
        headers = delivery.headers
        death = newest_death(headers)
        code = _text(headers.get(amqp.ERROR_CODE))
        # The message_id of a copy is the copy's own.
        request_id = identify(delivery, body_read=code is None)
        lost = f"the broker gave it up: {_text(death.get('reason')) or 'nobody knows why'}"
        size = _count(headers.get(amqp.BODY_BYTES))
        return cls(
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
    def cut(self) -> bool:
        return self.size > len(self.delivery.body)

    @property
    def refused(self) -> bool:
        """Whether nothing was claimed: no entry of this request was written."""
        return self.attempts == 0 and self.first_seen_at is None

    @property
    def user_id(self) -> str | None:
        """Who asks, as the body says."""
        if self.cut:
            return None
        try:
            document: Any = pydantic_core.from_json(self.delivery.document)
        except ValueError:
            return None
        return _text(document.get("user_id")) if isinstance(document, dict) else None


@dataclass(frozen=True, slots=True)
class Filter:
    """Which letters are meant: those that fit all that is given. ``letter`` is a request's id or its own."""

    code: str | None = None
    exception: str | None = None
    since: datetime | None = None
    user: str | None = None
    letter: UUID | None = None

    def fits(self, letter: DeadLetter) -> bool:
        if self.code is not None and letter.code != self.code:
            return False
        if self.exception is not None and letter.exception_type != self.exception:
            return False
        if self.since is not None and (letter.failed_at is None or letter.failed_at < self.since):
            return False
        if self.letter is not None and self.letter not in (letter.request_id, letter.letter_id):
            return False
        return self.user is None or letter.user_id == self.user


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _count(value: Any) -> int:
    return int(value) if isinstance(value, int) and value > 0 else 0


def _moment(value: Any) -> datetime | None:
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else value
    except ValueError:
        return None
    # At the edges of the calendar there are moments that other time zones have no date for.
    if not isinstance(moment, datetime) or not 1 < moment.year < 9999:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
