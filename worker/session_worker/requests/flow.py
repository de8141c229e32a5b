"""How a request comes to its outcome: parse → claim → handle → conclude. Open this file first.

A delivery goes in, an outcome comes out. The flow asks the ledger and runs the handler, and knows no broker.
What is done about an outcome is decided in ``settle.py``. A read takes a way of its own, parse → answer:
nothing is claimed, and each delivery is answered from what is true then.
"""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager, nullcontext
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from session_client.net.failures import in_one_line
from session_contracts import ErrorCode
from session_contracts.errors import ERRORS, known_code
from session_worker.ledger.protocol import (
    Claimed,
    Finished,
    Mismatch,
    NotNow,
    Suspect,
    UnstorableError,
)
from session_worker.messages.identifiers import new_token
from session_worker.operations.handler import Context, Rejected, SessionUnavailable
from session_worker.requests import attempt, outcomes, retry
from session_worker.requests.attempt import Failure
from session_worker.requests.claimed import ClaimedRequest, FencedError, Recorder, claim_step
from session_worker.requests.outcomes import Letter, Reply
from session_worker.requests.parse import identify_unread
from session_worker.requests.read import Answers, Read
from session_worker.requests.request import Refusal, Request
from session_worker.requests.results import Success
from session_worker.requests.turns import OneAtATime, Slots
from session_worker.settings import CONSUMER_TIMEOUT
from session_worker.telemetry.events import (
    AttemptEnded,
    OutcomeNotRecorded,
    RequestHandedBack,
    RequestTakenOver,
)
from session_worker.telemetry.trace import current_trace

if TYPE_CHECKING:
    from session_worker.ledger.protocol import Ledger
    from session_worker.messages.delivery import Delivery
    from session_worker.operations.binding import Binding, Limits
    from session_worker.requests.outcomes import Outcome
    from session_worker.requests.parse import RequestParser
    from session_worker.requests.response import ResponseBuilder
    from session_worker.settings import Settings
    from session_worker.telemetry.events import Emit

SUSPECT_SECONDS = 30.0
"""How long a request that saw several workers die waits, in a slot, for its turn to run alone."""
NO_LIMIT: AbstractAsyncContextManager[object] = nullcontext()
NO_TIME_AFTER_CRASH = "its worker ended while it ran, and its time was over before it could run again"


class Flow:
    """Decides about deliveries of one operation. ``resources`` is what its handler finds in the context;
    ``room`` is what each of its attempts holds, beside those of other operations."""

    def __init__(
        self,
        binding: Binding,
        limits: Limits,
        *,
        ledger: Ledger,
        parser: RequestParser,
        responses: ResponseBuilder,
        settings: Settings,
        emit: Emit,
        room: AbstractAsyncContextManager[object] = NO_LIMIT,
    ) -> None:
        self._binding = binding
        self.limits = limits
        self.resources: object = ledger if binding.built_in else None
        self._room = NO_LIMIT if binding.built_in else room
        self._ledger = ledger
        self._parser = parser
        self._responses = responses
        self._settings = settings
        self._emit = emit
        self._operation = binding.operation.name
        self._creates = binding.creates_session
        self._record = Recorder(ledger, responses, limits.retry_delays, emit, binding)
        self._answers = Answers(responses, emit, self._operation)
        self.stopping = False
        """Whether the worker shuts down: what is cancelled from now on is handed back."""
        self.slots = Slots(limits.concurrency)
        self._suspect_after = min(2, settings.max_crashes - 1)
        # After the wait there must be time for the attempt before the broker takes the delivery away.
        spare = CONSUMER_TIMEOUT - limits.timeout - settings.shutdown_grace
        self._suspects = OneAtATime(max(limits.concurrency // 2, 1), min(SUSPECT_SECONDS, spare))

    # ------------------------------------------------------------------------------------- parse

    async def parse(self, delivery: Delivery) -> Request | Refusal:
        """Read a delivery. Never raises for what a requester sent."""
        if delivery.lost_too_often and not await self._was_claimed(delivery):
            return self._parser.refuse_unread(delivery)
        return self._parser.parse(delivery)

    async def _was_claimed(self, delivery: Delivery) -> bool:
        # Then the ledger says what killed its workers, if anything did: connections may have been lost.
        request_id = identify_unread(delivery)
        return request_id is not None and await self._ledger.knows(request_id)

    async def decide(self, request: Request | Refusal) -> Outcome:
        """Decide what becomes of the delivery that the request was read from."""
        if isinstance(request, Refusal):
            return self._refuse(request)
        async with self.slots.take() as has_slot:
            if not has_slot:
                return self._come_back(request, SUSPECT_SECONDS, running=True)
            if self._binding.reads and not self._is_suspect(request):
                return await self._answer(request)
            while True:
                try:
                    return await self._claim(request)
                except FencedError as fenced:
                    self._emit(RequestTakenOver(*fenced.claimed.subject, operation=self._operation))

    # ------------------------------------------------------------------------------------- reads

    def _is_suspect(self, request: Request) -> bool:
        """Whether a read may have ended workers. Then it is claimed like any request, so that its crashes are
        counted; one that is built in runs no code that could."""
        return request.lost_before and not self._binding.built_in

    async def _answer(self, request: Request) -> Outcome:
        """Answer a read. What it says is neither stored nor compared with what was said before."""
        read = Read.of(request)
        if request.time_to_live == 0:
            return self._answers.expired(read)
        try:
            result = await self._attempt(read)
        except asyncio.CancelledError as cancelled:
            _stay_uncancelled()
            if self.stopping:
                self._emit(RequestHandedBack(*read.subject, operation=self._operation))
                return outcomes.Interrupted()
            result = Failure(ErrorCode.HANDLER_FAILED, cancelled, transient=True)
        match result:
            case Success():
                return self._answers.completed(read, result)
            case Rejected():
                return self._answers.rejected(read, result)
            case Failure():
                return self._answers.failed(read, result)

    # ------------------------------------------------------------------------------------- claim

    async def _claim(self, request: Request, *, alone: bool = False) -> Outcome:
        token = new_token()
        claim = claim_step(
            request,
            token,
            creates_session=self._creates,
            suspect_after=None if alone else self._suspect_after,
        )
        try:
            answer = await self._ledger.claim(claim)
        except UnstorableError as error:
            return self._refuse(
                request.refused(ErrorCode.INTERNAL_ERROR, creates=self._creates), in_one_line(error)
            )
        if isinstance(answer, Claimed | Finished | NotNow):
            current_trace.get().known(answer.traceparent)
        match answer:
            case Claimed():
                return await self._handle(ClaimedRequest(request, token, answer))
            case Suspect():
                return await self._claim_alone(request)
            case Finished():
                return self._replay(request, answer)
            case NotNow(wait=wait, running=running):
                return self._come_back(request, wait, running=running)
            case Mismatch():
                return self._refuse(request.refused(ErrorCode.IDEMPOTENCY_CONFLICT, creates=self._creates))

    async def _claim_alone(self, request: Request) -> Outcome:
        """Claim a suspect while no other suspect runs here.

        A suspect that waits for that takes a slot and a place in the prefetch from other requests. So at most
        half of the slots hold suspects, and not for long; one without a place comes back later.

        Each suspect gets its turn: whichever runs before it is answered, or has one attempt or one crash less
        to spend, so there are ever fewer to lose a place to. And it never stays away for longer than suspects
        wait in here (or the shortest retry), however often it was requeued.
        """
        async with self._suspects.turn() as is_our_turn:
            if is_our_turn:
                return await self._claim(request, alone=True)
        return self._come_back(request, SUSPECT_SECONDS, running=True)

    def _come_back(self, request: Request, wait: float, *, running: bool) -> Outcome:
        requeues = request.requeues
        delay = retry.busy_delay(wait, self.limits.retry_delays, running=running, requeues=requeues)
        return outcomes.Busy(request.request_id, delay, requeues + 1)

    def _refuse(self, refusal: Refusal, message: str | None = None) -> Outcome:
        """``message`` is for operators; without one they read what the requester reads."""
        reply = None
        if refusal.correlation_id is not None:
            reply = Reply(self._responses.refused(refusal), refusal.reply_to, refusal.correlation_id)
        return outcomes.Refused(reply, Letter(refusal.code, message or refusal.error, refusal.request_id))

    def _replay(self, request: Request, finished: Finished) -> Outcome:
        code = finished.error_code
        letter = None
        if code is not None and ERRORS[code].parked and not finished.parked:
            if finished.settling:
                return outcomes.Busy(request.request_id, self.limits.retry_delays[0], request.requeues + 1)
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
        return outcomes.Replayed(reply, letter, code)

    # ------------------------------------------------------------------------------------ handle

    async def _handle(self, claimed: ClaimedRequest) -> Outcome:
        if claimed.entry.crashes >= self._settings.max_crashes:
            return await self._record.failed(claimed, ErrorCode.CRASHED_WORKER)
        if claimed.entry.expired:
            return await self._end_late(claimed)
        try:
            result = await self._attempt(claimed)
        except asyncio.CancelledError as cancelled:
            _stay_uncancelled()
            if self.stopping:
                return await self._record.handed_back(claimed)
            # A handler cancelled this task, and would do so again and again if the request were handed back.
            result = Failure(ErrorCode.HANDLER_FAILED, cancelled, transient=True)
        try:
            return await self._conclude(claimed, result)
        except FencedError:
            raise
        except Exception as error:  # noqa: BLE001
            # Without an outcome, the entry would look as if this worker still ran it: nobody would answer.
            self._emit(OutcomeNotRecorded(*claimed.subject, error, operation=self._operation))
            defect = Failure(ErrorCode.INTERNAL_ERROR, error, transient=False)
            return await self._record.failed(claimed, defect.code, defect.detail, defect)

    async def _attempt(self, request: ClaimedRequest | Read) -> Success | Failure | Rejected:
        if self._binding.needs_session and (unavailable := await self._no_session(request.request)):
            return unavailable
        timeout = self.limits.timeout
        async with self._room:
            deadline = datetime.now(UTC) + timedelta(seconds=timeout)
            context = Context(request.entry.session_id, *request.subject, deadline, self.resources)
            result = await attempt.run(self._binding, request.for_handler(), context, timeout)
        self._emit(
            AttemptEnded(*request.subject, request.seconds, request.queue_wait, operation=self._operation)
        )
        return result

    async def _no_session(self, request: Request) -> SessionUnavailable | None:
        """Why the request's session is not to be used; None if it is open and the requester's."""
        session = await self._ledger.get_session(request.session_id or "", request.model.user_id)
        if session is None:
            return SessionUnavailable(ErrorCode.SESSION_NOT_FOUND)
        return None if session.active else SessionUnavailable(ErrorCode.SESSION_CLOSED)

    async def _end_late(self, claimed: ClaimedRequest) -> Outcome:
        """End a request whose time to live is over. If it had an attempt, that one's failure is its outcome:
        only a request that had none has expired."""
        entry = claimed.entry
        code = known_code(entry.error_code)
        if code is not None:
            return await self._record.failed(claimed, code, entry.detail)
        if entry.attempt or entry.crashes:
            return await self._record.failed(claimed, ErrorCode.INTERNAL_ERROR, NO_TIME_AFTER_CRASH)
        return await self._record.expired(claimed)

    # ---------------------------------------------------------------------------------- conclude

    async def _conclude(self, claimed: ClaimedRequest, result: Success | Failure | Rejected) -> Outcome:
        match result:
            case Success():
                return await self._record.completed(claimed, result)
            case Rejected():
                return await self._record.rejected(claimed, result)
            case Failure(transient=True) if not self._binding.reads and self._has_attempts(claimed):
                return await self._record.postponed(claimed, result)
            case Failure():
                return await self._record.given_up(claimed, result)

    def _has_attempts(self, claimed: ClaimedRequest) -> bool:
        return claimed.entry.attempt < self.limits.max_attempts


def _stay_uncancelled() -> None:
    """This task was cancelled and has something to do all the same."""
    current = asyncio.current_task()
    if current is not None:
        current.uncancel()
