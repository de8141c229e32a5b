"""A read on its way: nothing is claimed, so all that is known of it is what it says itself."""

from __future__ import annotations

import time
from dataclasses import field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from session_contracts import ErrorCode
from session_worker.messages.identifiers import storable
from session_worker.messages.immutable import immutable
from session_worker.requests import outcomes
from session_worker.requests.claimed import age, ending_of, for_handler
from session_worker.requests.outcomes import Reply
from session_worker.requests.sentences import sentence
from session_worker.telemetry.events import AttemptFailed, RequestFinished

if TYPE_CHECKING:
    from uuid import UUID

    from session_contracts import BaseRequest
    from session_worker.operations.handler import Rejected
    from session_worker.requests.attempt import Failure
    from session_worker.requests.outcomes import Outcome
    from session_worker.requests.request import Request
    from session_worker.requests.response import ResponseBuilder
    from session_worker.requests.results import Success
    from session_worker.telemetry.events import Emit


@immutable
class OnlyAttempt:
    """What stands for a read's entry in the ledger, which it has not."""

    session_id: str | None
    attempt: int = 1
    received_at: datetime = field(default_factory=lambda: datetime.now(UTC))


@immutable
class Read:
    """A read that is being answered. ``since``: when that began, by the monotonic clock."""

    request: Request
    entry: OnlyAttempt
    since: float

    @classmethod
    def of(cls, request: Request) -> Read:
        return cls(request, OnlyAttempt(request.session_id), time.monotonic())

    @property
    def subject(self) -> tuple[UUID, int]:
        return self.request.request_id, self.entry.attempt

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.since

    @property
    def queue_wait(self) -> float | None:
        if self.request.published is None:
            return None
        return max(age(self.request.published) - self.seconds, 0.0)

    def for_handler(self) -> BaseRequest[Any]:
        return for_handler(self.request, self.entry.received_at)


class Answers:
    """The ways in which a read can end."""

    def __init__(self, responses: ResponseBuilder, emit: Emit, operation: str) -> None:
        self._operation = operation
        self._responses = responses
        self._emit = emit

    def completed(self, read: Read, success: Success) -> Outcome:
        return self._answered(
            read, self._responses.completed(read.request, read.entry, success, read.seconds)
        )

    def rejected(self, read: Read, rejected: Rejected) -> Outcome:
        code = None if rejected.code is None else storable(rejected.code)
        return self._failed(read, rejected.error_code, rejected.message, code)

    def expired(self, read: Read) -> Outcome:
        return self._failed(read, ErrorCode.EXPIRED, sentence(ErrorCode.EXPIRED))

    def failed(self, read: Read, failure: Failure) -> Outcome:
        code, message = failure.code, failure.message
        self._emit(
            AttemptFailed(*read.subject, code, message, None, failure.stacktrace, operation=self._operation)
        )
        return self._failed(read, code, sentence(code, attempts=1), detail=failure.detail)

    def _failed(
        self,
        read: Read,
        code: ErrorCode,
        error: str,
        rejection_code: str | None = None,
        detail: str | None = None,
    ) -> Outcome:
        body = self._responses.failed(
            read.request, read.entry, code, storable(error), read.seconds, rejection_code
        )
        return self._answered(read, body, code, detail)

    def _answered(
        self, read: Read, body: bytes, code: ErrorCode | None = None, detail: str | None = None
    ) -> Outcome:
        self._emit(
            RequestFinished(
                *read.subject,
                ending_of(code),
                code,
                detail,
                round(read.seconds, 6),
                operation=self._operation,
            )
        )
        request = read.request
        return outcomes.Answered(
            Reply(
                body,
                request.reply_to,
                request.correlation_id,
                request.request_id,
                attempt=read.entry.attempt,
                published=request.published or read.entry.received_at.timestamp(),
            )
        )
