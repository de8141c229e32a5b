"""The ways in which a claimed request can end. Each is recorded in the ledger before anybody hears of it."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any, Literal

from session_contracts import ErrorCode, RequestStatus
from session_worker.ledger.protocol import Finish, Postpone, Release, StepResult
from session_worker.messages.identifiers import storable
from session_worker.requests import outcomes
from session_worker.requests.claimed import FencedError
from session_worker.requests.outcomes import Letter, Reply
from session_worker.requests.retry import attempt_delays
from session_worker.requests.sentences import sentence
from session_worker.telemetry.events import AttemptFailed, RequestFinished, RequestHandedBack

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from session_worker.ledger.protocol import Ledger
    from session_worker.operations.handler import Rejected
    from session_worker.requests.attempt import Failure
    from session_worker.requests.claimed import ClaimedRequest
    from session_worker.requests.outcomes import Outcome
    from session_worker.requests.response import ResponseBuilder
    from session_worker.telemetry.events import Emit, Ending

ENDINGS: Mapping[ErrorCode | None, Ending] = {
    None: "completed",
    ErrorCode.REJECTED: "rejected",
    ErrorCode.EXPIRED: "expired",
}
"""How a claimed request ended, by its error code; with any other code it failed."""


class Recorder:
    """Records outcomes, with the response that every copy of the reply will carry.

    Each method raises ``FencedError`` when another worker has taken the request over.
    """

    def __init__(
        self, ledger: Ledger, responses: ResponseBuilder, retry_delays: Sequence[int], emit: Emit
    ) -> None:
        self._ledger = ledger
        self._responses = responses
        self._retry_delays = retry_delays
        self._emit = emit

    async def completed(self, claimed: ClaimedRequest, metadata: Mapping[str, Any]) -> Outcome:
        body = self._responses.completed(claimed, metadata)
        return outcomes.Completed(await self._finish(claimed, RequestStatus.COMPLETED, body))

    async def rejected(self, claimed: ClaimedRequest, rejected: Rejected) -> Outcome:
        code = None if rejected.code is None else storable(rejected.code)
        return outcomes.Rejected(await self._fail(claimed, ErrorCode.REJECTED, rejected.message, code))

    async def expired(self, claimed: ClaimedRequest) -> Outcome:
        code = ErrorCode.EXPIRED
        return outcomes.Expired(await self._fail(claimed, code, sentence(code)))

    async def postponed(self, claimed: ClaimedRequest, failure: Failure) -> Outcome:
        """Let the request wait for its next attempt, or give it up if there is no time for one.

        The due time is committed before the copy is published, so a copy never comes early.
        """
        request_id, number = claimed.subject
        delays = attempt_delays(number, self._retry_delays, random.random())  # noqa: S311
        delay = await self._ledger.postpone(
            Postpone(request_id, claimed.token, delays, failure.code, failure.detail)
        )
        if delay is StepResult.OVERDUE:
            return await self.given_up(claimed, failure)
        if isinstance(delay, StepResult):
            self._tell(claimed, failure)
            raise FencedError(claimed)
        self._tell(claimed, failure, delay)
        return outcomes.RetryLater(request_id, delay, number)

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
        error = sentence(code, attempts=number, crashes=claimed.entry.crashes)
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
        self._emit(RequestHandedBack(*claimed.subject))
        return outcomes.Interrupted()

    def _tell(self, claimed: ClaimedRequest, failure: Failure, next_attempt_in: int | None = None) -> None:
        message, trace = failure.message, failure.stacktrace
        self._emit(AttemptFailed(*claimed.subject, failure.code, message, next_attempt_in, trace))

    async def _fail(
        self,
        claimed: ClaimedRequest,
        code: ErrorCode,
        error: str,
        rejection_code: str | None = None,
        detail: str | None = None,
    ) -> Reply:
        error = storable(error)
        body = self._responses.failed(claimed, code, error, rejection_code)
        return await self._finish(claimed, RequestStatus.FAILED, body, code, error, detail)

    async def _finish(
        self,
        claimed: ClaimedRequest,
        status: Literal[RequestStatus.COMPLETED, RequestStatus.FAILED],
        body: bytes,
        code: ErrorCode | None = None,
        error: str | None = None,
        detail: str | None = None,
    ) -> Reply:
        finish = Finish(claimed.request.request_id, claimed.token, status, body, code, error, detail)
        if await self._ledger.finish(finish) is StepResult.FENCED:
            raise FencedError(claimed)
        ending = ENDINGS.get(code, "failed")
        self._emit(RequestFinished(*claimed.subject, ending, code, detail, round(claimed.seconds, 6)))
        return claimed.reply(body)
