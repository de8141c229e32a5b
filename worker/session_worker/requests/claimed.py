"""A claimed request: what the flow takes to the ledger, to the handler and into the response, and the ways in
which it can end."""

from __future__ import annotations

import time
from dataclasses import field
from typing import TYPE_CHECKING, Any, Literal

from session_contracts import ErrorCode, RequestStatus
from session_contracts.errors import ERRORS
from session_worker.ledger.protocol import Claim, Finish, Postpone, Release, StepResult
from session_worker.messages.identifiers import new_session_id, storable
from session_worker.messages.immutable import immutable
from session_worker.requests import outcomes
from session_worker.requests.outcomes import Letter, Reply
from session_worker.requests.results import metadata_of_session
from session_worker.requests.retry import attempt_delays, due_delay, wished_delays
from session_worker.requests.sentences import sentence
from session_worker.requests.timing import current_timing
from session_worker.telemetry.events import AttemptFailed, RequestFinished, RequestHandedBack
from session_worker.telemetry.trace import current_trace

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from uuid import UUID

    from session_contracts import BaseRequest
    from session_worker.ledger.protocol import Claimed, Ledger
    from session_worker.operations.binding import Binding
    from session_worker.operations.handler import Rejected
    from session_worker.requests.attempt import Failure
    from session_worker.requests.outcomes import Outcome
    from session_worker.requests.request import Request
    from session_worker.requests.response import ResponseBuilder
    from session_worker.requests.results import Success
    from session_worker.telemetry.events import Emit, Ending

MAX_AGE = 30 * 86_400.0
"""Seconds. A request that claims to be older counts as this old, so that it spoils no sum."""


def ending_of(code: ErrorCode | None) -> Ending:
    """How a request ended that was not refused, by its error code."""
    if code is None:
        return "completed"
    if code is ErrorCode.EXPIRED:
        return "expired"
    return "failed" if ERRORS[code].parked else "rejected"


def claim_step(request: Request, token: UUID, *, creates_session: bool, suspect_after: int | None) -> Claim:
    """Return what to ask the ledger for a request."""
    return Claim(
        request_id=request.request_id,
        fingerprint=request.fingerprint,
        token=token,
        session_id=new_session_id() if creates_session else request.session_id,
        user_id=request.model.user_id,
        operation=request.model.operation,
        casefile_id=request.casefile_id,
        title=request.model.payload.title if creates_session else None,
        time_to_live=request.time_to_live,
        reply_to=storable(request.reply_to),
        correlation_id=storable(request.correlation_id),
        traceparent=current_trace.get().traceparent,
        suspect_after=suspect_after,
    )


def for_handler(request: Request, received_at: datetime) -> BaseRequest[Any]:
    """Return a request as its handler sees it. An id or a time that its sender did not give is the same in
    every attempt."""
    model = request.model
    if model.model_fields_set >= {"request_id", "timestamp"}:
        return model
    stable = {"request_id": request.request_id, "timestamp": received_at.isoformat()}
    missing = {name: value for name, value in stable.items() if name not in model.model_fields_set}
    return model.model_copy(update=missing)


@immutable
class ClaimedRequest:
    """A request, the token that later steps show, and what the ledger knows of it (``entry``)."""

    request: Request
    token: UUID
    entry: Claimed
    since: float = field(default_factory=time.monotonic)

    @property
    def subject(self) -> tuple[UUID, int]:
        """The request's id and the number of the attempt, with which every event begins."""
        return self.request.request_id, self.entry.attempt

    @property
    def seconds(self) -> float:
        """Seconds since the claim."""
        return time.monotonic() - self.since

    @property
    def queue_wait(self) -> float | None:
        """Seconds in the queue before the first attempt; None if nobody said when it was published."""
        if self.entry.attempt > 1 or self.entry.crashes or self.request.published is None:
            return None
        return max(age(self.request.published) - self.seconds, 0.0)

    def for_handler(self) -> BaseRequest[Any]:
        return for_handler(self.request, self.entry.received_at)

    def reply(self, body: bytes) -> Reply:
        """Return the first reply to the request. If the requester did not say when it published, the time
        counts from the first claim."""
        request = self.request
        return Reply(
            body,
            request.reply_to,
            request.correlation_id,
            request.request_id,
            self.token,
            attempt=self.entry.attempt,
            published=request.published or self.entry.received_at.timestamp(),
        )


class FencedError(Exception):
    """Another worker has taken the request over; what was done here no longer counts."""

    def __init__(self, claimed: ClaimedRequest) -> None:
        super().__init__(claimed)
        self.claimed = claimed


class Recorder:
    """Records outcomes, with the response that every copy of the reply will carry.

    Raises:
        FencedError: another worker has taken the request over; nothing was recorded.
    """

    def __init__(
        self,
        ledger: Ledger,
        responses: ResponseBuilder,
        retry_delays: Sequence[int],
        emit: Emit,
        binding: Binding,
    ) -> None:
        self._ledger = ledger
        self._responses = responses
        self._retry_delays = retry_delays
        self._creates = binding.creates_session
        self._operation = binding.operation.name
        self._emit = emit

    async def completed(self, claimed: ClaimedRequest, success: Success) -> Outcome:
        body = self._responses.completed(claimed.request, claimed.entry, success, claimed.seconds)
        session = metadata_of_session(success.metadata) if self._creates else None
        return outcomes.Completed(await self._finish(claimed, RequestStatus.COMPLETED, body, session=session))

    async def rejected(self, claimed: ClaimedRequest, rejected: Rejected) -> Outcome:
        code = None if rejected.code is None else storable(rejected.code)
        return outcomes.Rejected(await self._fail(claimed, rejected.error_code, rejected.message, code))

    async def expired(self, claimed: ClaimedRequest) -> Outcome:
        code = ErrorCode.EXPIRED
        return outcomes.Expired(await self._fail(claimed, code, sentence(code, creates=self._creates)))

    async def postponed(self, claimed: ClaimedRequest, failure: Failure) -> Outcome:
        """Let the request wait for its next attempt, or give it up if there is no time for one.

        The due time is committed before the copy is published, so a copy never comes early.
        """
        request_id, number = claimed.subject
        if failure.after is None:
            delays = attempt_delays(number, self._retry_delays, current_timing.get().chance())
        else:
            delays = wished_delays(failure.after, self._retry_delays)
        delay = await self._ledger.postpone(
            Postpone(request_id, claimed.token, delays, failure.code, failure.detail)
        )
        if delay is StepResult.OVERDUE:
            return await self.given_up(claimed, failure)
        if isinstance(delay, StepResult):
            self._tell(claimed, failure)
            raise FencedError(claimed)
        self._tell(claimed, failure, delay)
        return outcomes.RetryLater(request_id, due_delay(delay, self._retry_delays), number)

    async def given_up(self, claimed: ClaimedRequest, failure: Failure) -> Outcome:
        """Fail because the last attempt did."""
        self._tell(claimed, failure)
        return await self.failed(claimed, failure.code, failure.detail, failure)

    async def failed(
        self,
        claimed: ClaimedRequest,
        code: ErrorCode,
        detail: str | None = None,
        failure: Failure | None = None,
    ) -> Outcome:
        """Fail, and have a copy parked. ``detail`` is for operators."""
        request_id, number = claimed.subject
        error = sentence(code, attempts=number, crashes=claimed.entry.crashes, creates=self._creates)
        reply = await self._fail(claimed, code, error, detail=detail)
        letter = Letter(
            code=code,
            message=failure.message if failure else detail or error,
            request_id=request_id,
            exception_type=type(failure.error).__name__[:255] if failure else None,
            stacktrace=failure.stacktrace if failure else None,
            attempts=number,
            first_seen_at=claimed.entry.received_at,
        )
        return outcomes.Failed(reply, letter)

    async def handed_back(self, claimed: ClaimedRequest) -> Outcome:
        """The worker shuts down, which is nobody's failure: the attempt is not counted."""
        await self._ledger.release(Release(claimed.request.request_id, claimed.token))
        self._emit(RequestHandedBack(*claimed.subject, operation=self._operation))
        return outcomes.Interrupted()

    def _tell(self, claimed: ClaimedRequest, failure: Failure, next_attempt_in: int | None = None) -> None:
        message, trace = failure.message, failure.stacktrace
        self._emit(
            AttemptFailed(
                *claimed.subject, failure.code, message, next_attempt_in, trace, operation=self._operation
            )
        )

    async def _fail(
        self,
        claimed: ClaimedRequest,
        code: ErrorCode,
        error: str,
        rejection_code: str | None = None,
        detail: str | None = None,
    ) -> Reply:
        error = storable(error)
        body = self._responses.failed(
            claimed.request, claimed.entry, code, error, claimed.seconds, rejection_code
        )
        return await self._finish(claimed, RequestStatus.FAILED, body, code, error, detail)

    async def _finish(
        self,
        claimed: ClaimedRequest,
        status: Literal[RequestStatus.COMPLETED, RequestStatus.FAILED],
        body: bytes,
        code: ErrorCode | None = None,
        error: str | None = None,
        detail: str | None = None,
        session: str | None = None,
    ) -> Reply:
        finish = Finish(claimed.request.request_id, claimed.token, status, body, code, error, detail, session)
        if await self._ledger.finish(finish) is StepResult.FENCED:
            raise FencedError(claimed)
        ending = ending_of(code)
        self._emit(
            RequestFinished(
                *claimed.subject, ending, code, detail, round(claimed.seconds, 6), operation=self._operation
            )
        )
        return claimed.reply(body)


def age(published: float) -> float:
    """Return the seconds since ``published``: none for a time to come, at most ``MAX_AGE``."""
    return min(max(time.time() - published, 0.0), MAX_AGE)
