"""The path of one request: parse → claim → handle → complete. Open this file first.

A delivery goes in, an outcome comes out. The flow asks the ledger and runs the handler; it never touches the
broker. What is done about an outcome is the business of ``settle.py``.
"""

from __future__ import annotations

import asyncio
import random
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Literal

from session_client.net.trouble import words
from session_contracts import ErrorCode, RequestStatus
from session_contracts.errors import ERRORS, known_code
from session_worker.ledger import protocol as ledger_steps
from session_worker.ledger.protocol import (
    Claimed,
    Finished,
    InOtherHands,
    Mismatch,
    StepResult,
    Suspect,
    UnstorableError,
)
from session_worker.messages import identifiers
from session_worker.operations.handler import Context, Rejected
from session_worker.requests import attempt, retry
from session_worker.requests.attempt import Failure, Success
from session_worker.requests.hold import FencedError, Hold, claim_step
from session_worker.requests.outcome import (
    Busy,
    Completed,
    Declined,
    Expired,
    Failed,
    Interrupted,
    Letter,
    Refused,
    Replayed,
    Reply,
    RetryLater,
)
from session_worker.requests.reply import ReplyBuilder, sentence
from session_worker.requests.request import Refusal, Request, RequestParser, probable_id
from session_worker.requests.slots import Slots
from session_worker.requests.turns import OneByOne
from session_worker.settings import CONSUMER_TIMEOUT
from session_worker.telemetry.events import (
    AttemptEnded,
    AttemptFailed,
    OutcomeNotRecorded,
    RequestFinished,
    RequestHandedBack,
    RequestTakenOver,
)
from session_worker.telemetry.trace import current_trace

if TYPE_CHECKING:
    from collections.abc import Mapping

    from session_worker.ledger.protocol import Ledger
    from session_worker.messages.delivery import Delivery
    from session_worker.operations.handler import Handler
    from session_worker.requests.outcome import Outcome
    from session_worker.settings import Settings
    from session_worker.telemetry.events import Emit, Ending

ENDINGS: Mapping[ErrorCode | None, Ending] = {
    None: "completed",
    ErrorCode.REJECTED: "rejected",
    ErrorCode.EXPIRED: "expired",
}
"""What the outcome of a claimed request is called, by its error code; with any other it is exhausted."""
LOST_IN_A_CRASH = "its worker ended while it ran, and its time was over before it could run again"
SUSPECT_SECONDS = 30.0
"""How long a request that saw several workers die waits, in a slot, for its turn to run alone."""


class Flow:
    """Decides about deliveries; one for each process."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        handler: Handler,
        parser: RequestParser,
        replies: ReplyBuilder,
        settings: Settings,
        emit: Emit,
    ) -> None:
        self._ledger = ledger
        self._handler = handler
        self._parser = parser
        self._replies = replies
        self._settings = settings
        self._emit = emit
        self._suspect_after = min(2, settings.max_crashes - 1)
        self.stopping = False
        """Whether what is cancelled from now on was interrupted by the worker's shutdown."""
        self.slots = Slots(settings.concurrency)
        # Beside the wait there is to be time for the attempt before the broker takes the delivery away.
        spare = CONSUMER_TIMEOUT - settings.handler_timeout - settings.shutdown_grace
        self._suspects = OneByOne(max(settings.concurrency // 2, 1), min(SUSPECT_SECONDS, spare))

    async def parse(self, delivery: Delivery) -> Request | Refusal:
        """Read a delivery; never raises for what a requester sent."""
        return self._parser.parse(delivery, trusted=delivery.deadly and await self._known(delivery))

    async def decide(self, request: Request | Refusal) -> Outcome:
        """Decide what becomes of the delivery that the request was read from."""
        if isinstance(request, Refusal):
            return self._refuse(request)
        async with self.slots.take() as ours:
            if not ours:  # treated like a suspect that finds no place
                return self._not_ours(request, InOtherHands(SUSPECT_SECONDS, running=True))
            while True:
                try:
                    return await self._claim(request)
                except FencedError as fenced:
                    self._emit(RequestTakenOver(request.request_id, fenced.attempt))

    async def _known(self, delivery: Delivery) -> bool:
        """Whether the delivery's request got as far as a claim. Then the ledger says what killed its workers,
        if anything did: it may have been their connections that were lost."""
        request_id = probable_id(delivery)
        return request_id is not None and await self._ledger.knows(request_id)

    async def _claim(self, request: Request, *, alone: bool = False) -> Outcome:
        token = identifiers.new_token()
        step = claim_step(request, token, suspect_after=None if alone else self._suspect_after)
        try:
            answer = await self._ledger.claim(step)
        except UnstorableError as error:
            return self._refuse(request.refused(ErrorCode.INTERNAL_ERROR), error)
        if isinstance(answer, Claimed | Finished | InOtherHands):
            current_trace.get().known(answer.traceparent)
        match answer:
            case Claimed():
                return await self._handle(Hold(request, token, answer))
            case Suspect():
                return await self._claim_alone(request)
            case _:
                return self._not_ours(request, answer)

    async def _claim_alone(self, request: Request) -> Outcome:
        """Claim a suspect when no other one runs here.

        Who waits for that keeps a slot and a place in the prefetch from the others. So suspects wait in half
        of the slots at most, and not for long; for those without a place it is as if others had the request.

        Each gets its turn. Whoever goes before it is answered or has an attempt or a crash less to spend:
        there are ever fewer to lose a place to. And however often it was requeued, it does not stay away
        longer than others wait in here (or the shortest retry).
        """
        async with self._suspects.turn() as ours:
            if ours:
                return await self._claim(request, alone=True)
        return self._not_ours(request, InOtherHands(SUSPECT_SECONDS, running=True))

    def _not_ours(self, request: Request, answer: Finished | InOtherHands | Mismatch) -> Outcome:
        match answer:
            case Finished():
                return self._replay(request, answer)
            case InOtherHands(wait=wait, running=running):
                delay = retry.busy_delay(
                    wait, self._settings.retry_delays, running=running, requeues=request.requeues
                )
                return Busy(request.request_id, delay, request.requeues + 1)
            case Mismatch():
                return self._refuse(request.refused(ErrorCode.IDEMPOTENCY_CONFLICT))

    async def _handle(self, hold: Hold) -> Outcome:
        claimed = hold.claimed
        if claimed.crashes >= self._settings.max_crashes:
            return await self._give_up(hold, ErrorCode.CRASHED_WORKER)
        if claimed.expired:
            return await self._end_late(hold)
        try:
            result = await self._attempt(hold)
        except asyncio.CancelledError as cancelled:
            _go_on()
            if self.stopping:
                return await self._interrupt(hold)
            # By a handler, whosever: handed back it would come, and do it, again and again.
            result = Failure(ErrorCode.HANDLER_FAILED, cancelled, transient=True)
        try:
            return await self._conclude(hold, result)
        except FencedError:
            raise
        except Exception as error:  # noqa: BLE001
            # Left as it is, the entry would look like one that this worker still runs: nobody would answer.
            self._emit(OutcomeNotRecorded(hold.request.request_id, hold.claimed.attempt, error))
            return await self._fail_for_good(hold, Failure(ErrorCode.INTERNAL_ERROR, error, transient=False))

    async def _attempt(self, hold: Hold) -> Success | Failure | Rejected:
        timeout = self._settings.handler_timeout
        context = Context(
            session_id=hold.claimed.session_id,
            request_id=hold.request.request_id,
            attempt=hold.claimed.attempt,
            deadline=datetime.now(UTC) + timedelta(seconds=timeout),
        )
        result = await attempt.run(self._handler, hold.for_handler(), context, timeout)
        self._emit(AttemptEnded(hold.request.request_id, hold.claimed.attempt, hold.seconds, hold.queue_wait))
        return result

    async def _conclude(self, hold: Hold, result: Success | Failure | Rejected) -> Outcome:
        match result:
            case Success(metadata=metadata):
                body = self._replies.completed(hold.request, hold.claimed, metadata, hold.seconds)
                return Completed(await self._finish(hold, RequestStatus.COMPLETED, body))
            case Rejected():
                return await self._decline(hold, result)
            case Failure(transient=True) if hold.claimed.attempt < self._settings.max_attempts:
                return await self._postpone(hold, result)
            case Failure():
                self._tell(hold, result)
                return await self._fail_for_good(hold, result)

    # ------------------------------------------------------------------- the ways it can end

    async def _decline(self, hold: Hold, rejected: Rejected) -> Outcome:
        code = None if rejected.code is None else identifiers.storable(rejected.code)
        reply = await self._fail(hold, ErrorCode.REJECTED, rejected.message, rejection_code=code)
        return Declined(reply)

    async def _end_late(self, hold: Hold) -> Outcome:
        """Nobody waits for another attempt. A request that had one ends with that one's failure; only a
        request that had none has expired."""
        claimed = hold.claimed
        code = known_code(claimed.error_code)
        if code is not None:
            return await self._give_up(hold, code, claimed.detail)
        if claimed.attempt or claimed.crashes:
            return await self._give_up(hold, ErrorCode.INTERNAL_ERROR, LOST_IN_A_CRASH)
        return Expired(await self._fail(hold, ErrorCode.EXPIRED, sentence(ErrorCode.EXPIRED, claimed)))

    async def _fail_for_good(self, hold: Hold, failure: Failure) -> Outcome:
        return await self._give_up(hold, failure.code, failure.detail, failure)

    async def _give_up(
        self, hold: Hold, code: ErrorCode, detail: str | None = None, failure: Failure | None = None
    ) -> Outcome:
        error = sentence(code, hold.claimed)
        reply = await self._fail(hold, code, error, detail=detail)
        letter = Letter(
            code=code,
            message=failure.message if failure else detail or error,
            request_id=hold.request.request_id,
            exception_type=type(failure.error).__name__[:255] if failure else None,
            stacktrace=failure.stacktrace if failure else None,
            attempts=hold.claimed.attempt,
            first_seen_at=hold.claimed.received_at,
        )
        return Failed(reply, letter)

    async def _postpone(self, hold: Hold, failure: Failure) -> Outcome:
        """The due time is committed before the copy is published, so a copy never comes early."""
        request_id, number = hold.request.request_id, hold.claimed.attempt
        delays = retry.attempt_delays(number, self._settings.retry_delays, random.random())  # noqa: S311
        delay = await self._ledger.postpone(
            ledger_steps.Postpone(request_id, hold.token, delays, failure.code, failure.detail)
        )
        if isinstance(delay, StepResult):
            self._tell(hold, failure)
            if delay is StepResult.FENCED:
                raise FencedError(hold)
            return await self._fail_for_good(hold, failure)
        self._tell(hold, failure, delay)
        return RetryLater(request_id, delay, number)

    def _tell(self, hold: Hold, failure: Failure, next_attempt_in: int | None = None) -> None:
        self._emit(
            AttemptFailed(
                hold.request.request_id,
                hold.claimed.attempt,
                failure.code,
                failure.message,
                next_attempt_in,
                failure.stacktrace,
            )
        )

    async def _interrupt(self, hold: Hold) -> Outcome:
        """Shutdown is nobody's failure: the attempt is not counted."""
        await self._ledger.release(ledger_steps.Release(hold.request.request_id, hold.token))
        self._emit(RequestHandedBack(hold.request.request_id, hold.claimed.attempt))
        return Interrupted()

    def _replay(self, request: Request, finished: Finished) -> Outcome:
        code = finished.error_code
        letter = None
        if code is not None and ERRORS[code].parked and not finished.parked:
            if finished.settling:
                return Busy(request.request_id, self._settings.retry_delays[0], request.requeues + 1)
            letter = Letter(
                code=code,
                message=finished.detail or finished.error or "",
                request_id=request.request_id,
                attempts=finished.attempt,
                first_seen_at=finished.received_at,
            )
        reply = Reply(
            finished.response,
            request.reply_to,
            request.correlation_id,
            request.request_id,
            finished.token,
            replayed=True,
            attempt=finished.attempt,
        )
        return Replayed(reply, letter, code)

    def _refuse(self, refusal: Refusal, error: Exception | None = None) -> Outcome:
        reply = None
        if refusal.answerable:
            correlation_id = refusal.correlation_id or str(refusal.request_id)
            reply = Reply(self._replies.refused(refusal), refusal.reply_to, correlation_id)
        letter = Letter(
            code=refusal.code,
            message=refusal.error if error is None else words(error),
            request_id=refusal.request_id,
        )
        return Refused(reply, letter)

    # ------------------------------------------------------------------------ ledger and reply

    async def _fail(
        self,
        hold: Hold,
        code: ErrorCode,
        error: str,
        *,
        detail: str | None = None,
        rejection_code: str | None = None,
    ) -> Reply:
        error = identifiers.storable(error)
        body = self._replies.failed(
            hold.request, hold.claimed, code, error, hold.seconds, rejection_code=rejection_code
        )
        return await self._finish(hold, RequestStatus.FAILED, body, code, error, detail)

    async def _finish(
        self,
        hold: Hold,
        status: Literal[RequestStatus.COMPLETED, RequestStatus.FAILED],
        body: bytes,
        code: ErrorCode | None = None,
        error: str | None = None,
        detail: str | None = None,
    ) -> Reply:
        request_id = hold.request.request_id
        step = await self._ledger.finish(
            ledger_steps.Finish(request_id, hold.token, status, body, code, error, detail)
        )
        if step is StepResult.FENCED:
            raise FencedError(hold)
        number = hold.claimed.attempt
        ending = ENDINGS.get(code, "failed")
        self._emit(RequestFinished(request_id, number, ending, code, detail, round(hold.seconds, 6)))
        return Reply(
            body,
            hold.request.reply_to,
            hold.request.correlation_id,
            request_id,
            hold.token,
            attempt=number,
            published=hold.published,
        )


def _go_on() -> None:
    """This task was cancelled, and has something to do all the same."""
    current = asyncio.current_task()
    if current is not None:
        current.uncancel()
