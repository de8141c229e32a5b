"""The path of one request: every answer of the ledger, every end of an attempt, and its outcome."""

import asyncio
import dataclasses
import json
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast
from uuid import UUID, uuid4

import pytest

from session_contracts import CreateSessionRequest, ErrorCode, RequestStatus
from session_contracts.amqp import REDRIVE_COUNT, REQUEUE_COUNT
from session_contracts.errors import ERRORS
from session_worker.ledger.protocol import (
    Claim,
    ClaimAnswer,
    Finish,
    Finished,
    Ledger,
    Mismatch,
    NotNow,
    Postpone,
    Release,
    StepResult,
    Suspect,
    UnstorableError,
)
from session_worker.messages.delivery import Lane
from session_worker.operations.binding import Limits
from session_worker.operations.handler import AnyHandler, Context, PermanentError, Rejected
from session_worker.requests import outcomes
from session_worker.requests.claimed import MAX_AGE, ClaimedRequest, age
from session_worker.requests.flow import NO_TIME_AFTER_CRASH, Flow
from session_worker.requests.outcomes import (
    Busy,
    Completed,
    Expired,
    Failed,
    Interrupted,
    Outcome,
    Refused,
    Replayed,
    RetryLater,
)
from session_worker.requests.response import ResponseBuilder
from session_worker.settings import CONSUMER_TIMEOUT
from session_worker.telemetry.events import (
    AttemptEnded,
    AttemptFailed,
    Emit,
    Event,
    OutcomeNotRecorded,
    RequestFinished,
    RequestHandedBack,
    RequestTakenOver,
    unheard,
)
from tests.support import parts

REQUEST_ID = UUID(int=7)
TOKEN = UUID(int=8)
LedgerStep = Claim | Finish | Postpone | Release


class ScriptedLedger:
    """Gives the answers it was told to give, then the friendliest one; remembers every step."""

    def __init__(self, *answers: ClaimAnswer | int | StepResult | Exception) -> None:
        self.claims = [answer for answer in answers if not isinstance(answer, int | StepResult)]
        self.ends: list[int | StepResult | Exception] = [
            answer for answer in answers if isinstance(answer, int | StepResult)
        ]
        self.steps: list[LedgerStep] = []
        self.known = False

    async def knows(self, request_id: UUID) -> bool:
        assert request_id == REQUEST_ID
        return self.known

    async def claim(self, claim: Claim) -> ClaimAnswer:
        self.steps.append(claim)
        await asyncio.sleep(0)
        answer = self.claims.pop(0) if self.claims else parts.claimed()
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def _end(self, step: LedgerStep) -> int | StepResult:
        self.steps.append(step)
        await asyncio.sleep(0)
        friendly = step.delays[-1] if isinstance(step, Postpone) else StepResult.APPLIED
        answer = self.ends.pop(0) if self.ends else friendly
        if isinstance(answer, Exception):
            raise answer
        return answer

    finish = postpone = release = _end

    @property
    def names(self) -> list[str]:
        return [type(step).__name__ for step in self.steps]


class CountingHandler:
    """Returns or raises what it is given, and remembers how it was called."""

    def __init__(self, result: object = None) -> None:
        self.result = result
        self.calls: list[tuple[CreateSessionRequest, Context]] = []

    async def __call__(self, request: CreateSessionRequest, context: Context) -> Any:
        self.calls.append((request, context))
        if isinstance(self.result, BaseException):
            raise self.result
        return self.result


def _flow(
    ledger: ScriptedLedger, handler: AnyHandler | None = None, emit: Emit = unheard, **settings: Any
) -> Flow:
    binding = parts.hooked(handler or CountingHandler())
    made = parts.worker_settings(**settings)
    return Flow(
        binding,
        Limits.of(made),
        ledger=cast("Ledger", ledger),
        parser=parts.parser(),
        responses=ResponseBuilder("w", binding),
        settings=made,
        emit=emit,
    )


async def _outcome(flow: Flow, content: bytes | None = None, **fields: Any) -> Outcome:
    delivery = parts.delivery(parts.body(REQUEST_ID) if content is None else content, **fields)
    return await flow.decide(await flow.parse(delivery))


def _finished(code: ErrorCode | None = None, *, parked: bool = False, settling: bool = False) -> Finished:
    status = RequestStatus.COMPLETED if code is None else RequestStatus.FAILED
    error, detail = (None, None) if code is None else ("what to do", "ValueError: x")
    return Finished(
        token=TOKEN,
        status=status,
        response=b"stored",
        session_id=parts.SESSION_ID,
        attempt=6,
        error_code=code,
        error=error,
        detail=detail,
        received_at=parts.RECEIVED_AT,
        parked=parked,
        settling=settling,
    )


# ------------------------------------------------------- it was lost again and again in the slow lane

DEADLY: dict[str, Any] = {"lane": Lane.SLOW, "redelivered": True, "headers": {"x-delivery-count": 3}}


async def test_what_killed_workers_before_a_claim_is_refused_unread() -> None:
    ledger = ScriptedLedger()
    outcome = await _outcome(_flow(ledger), correlation_id="call-7", **DEADLY)
    assert isinstance(outcome, Refused)
    assert outcome.letter.code is ErrorCode.CRASHED_WORKER
    assert ledger.steps == []


@pytest.mark.parametrize(
    ("answer", "kind"), [(NotNow(15.0, running=True), Busy), (parts.claimed(crashes=1), Completed)]
)
async def test_what_the_ledger_knows_is_not_refused_for_its_lost_connections(
    answer: ClaimAnswer, kind: type[Outcome]
) -> None:
    """Its deliveries were lost with their connections while it ran: refused, it would have two outcomes."""
    ledger = ScriptedLedger(answer)
    ledger.known = True
    assert isinstance(await _outcome(_flow(ledger), **DEADLY), kind)


# --------------------------------------------------------------------------------- it is ours to handle


async def test_new_request_is_claimed_handled_finished_and_answered() -> None:
    ledger, handler = ScriptedLedger(parts.claimed(attempt=2)), CountingHandler({"region": "eu"})
    outcome = await _outcome(_flow(ledger, handler), reply_to="app.reply", correlation_id="call-7")
    assert isinstance(outcome, Completed)
    assert ledger.names == ["Claim", "Finish"]
    claim, finish = ledger.steps
    assert isinstance(claim, Claim)
    assert isinstance(finish, Finish)
    assert (finish.token, finish.status, finish.response) == (
        claim.token,
        RequestStatus.COMPLETED,
        outcome.reply.body,
    )
    assert (outcome.reply.reply_to, outcome.reply.correlation_id) == ("app.reply", "call-7")
    assert (outcome.reply.request_id, outcome.reply.replayed) == (REQUEST_ID, False)
    answer = json.loads(outcome.reply.body)
    assert (answer["payload"]["session_id"], answer["metadata"]["region"]) == (parts.SESSION_ID, "eu")
    ((request, context),) = handler.calls
    assert (context.session_id, context.request_id, context.attempt) == (parts.SESSION_ID, REQUEST_ID, 2)
    assert request.request_id == REQUEST_ID


async def test_handler_sees_the_same_id_and_time_at_every_attempt() -> None:
    """Where the body gave none: not the model's fresh defaults."""
    handler = CountingHandler()
    await _outcome(_flow(ScriptedLedger(), handler), parts.body(), message_id=str(REQUEST_ID))
    ((request, _),) = handler.calls
    assert (request.request_id, request.timestamp) == (REQUEST_ID, parts.RECEIVED_AT.isoformat())


@pytest.mark.parametrize("then", [None, ValueError("broken")])
async def test_whatever_a_handler_does_to_its_request_the_answer_is_right(then: Exception | None) -> None:
    """A model is frozen, which does not keep a handler from changing it."""

    async def handle(request: CreateSessionRequest, _: Context) -> None:
        object.__setattr__(request.payload, "casefile_id", object())
        object.__setattr__(request, "payload", None)
        if then is not None:
            raise then

    ledger = ScriptedLedger(parts.claimed(attempt=99))
    outcome = await _outcome(_flow(ledger, handle))
    assert isinstance(outcome, Failed if then else Completed)
    answer = json.loads(outcome.reply.body)
    assert answer["payload"]["casefile_id"] == parts.CASEFILE_ID
    assert answer["metadata"].get("error_code") == (ErrorCode.HANDLER_FAILED if then else None)


async def test_rejection_is_answered_with_the_handlers_code_and_not_tried_again() -> None:
    ledger, handler = ScriptedLedger(), CountingHandler(Rejected("no rooms", code="full"))
    outcome = await _outcome(_flow(ledger, handler))
    assert isinstance(outcome, outcomes.Rejected)
    assert len(handler.calls) == 1
    answer = json.loads(outcome.reply.body)
    assert (answer["status"], answer["error"]) == ("failed", "no rooms")
    assert (answer["metadata"]["error_code"], answer["metadata"]["rejection_code"]) == ("rejected", "full")


class BareRejected(Rejected):
    def __init__(self) -> None:
        """Without ``super().__init__``."""


@pytest.mark.parametrize(
    "rejected",
    [Rejected("\0\ud800" * 5000, code="\0\ud800" * 20_000), BareRejected()],
    ids=["hostile", "bare"],
)
async def test_rejection_of_any_content_is_answered(rejected: Rejected) -> None:
    """An answer that cannot be built would leave the request in this worker's hands for ever."""
    outcome = await _outcome(_flow(ScriptedLedger(), CountingHandler(rejected)))
    assert isinstance(outcome, outcomes.Rejected)
    assert json.loads(outcome.reply.body)["metadata"]["error_code"] == "rejected"


async def test_failure_with_attempts_left_waits_as_long_as_the_ledger_chose() -> None:
    ledger = ScriptedLedger(parts.claimed(attempt=3), 4)
    outcome = await _outcome(_flow(ledger, CountingHandler(PassingError("x")), retry_delays=(4, 7)))
    assert outcome == RetryLater(REQUEST_ID, 4, 3)
    postpone = ledger.steps[-1]
    assert isinstance(postpone, Postpone)
    assert postpone.delays in ((4, 7), (4,))
    assert postpone.error_code == ErrorCode.HANDLER_FAILED
    assert re.fullmatch(r"\S+PassingError: x; in __call__ \(requests/test_flow.py:\d+\)", postpone.detail)


class PassingError(Exception):
    """May be over at the next attempt."""


@pytest.mark.parametrize("attempt", [6, 7, 900])
async def test_last_attempt_that_fails_is_answered_and_parked(attempt: int) -> None:
    """Also when the limit was lowered since: an attempt beyond it is the last one, not one of a new round."""
    outcome = await _outcome(
        _flow(ScriptedLedger(parts.claimed(attempt)), CountingHandler(PassingError("secret")), max_attempts=6)
    )
    assert isinstance(outcome, Failed)
    answer = json.loads(outcome.reply.body)
    assert (answer["metadata"]["error_code"], answer["metadata"]["attempts"]) == ("handler_failed", attempt)
    assert b"secret" not in outcome.reply.body
    letter = outcome.letter
    assert (letter.message, letter.exception_type, letter.attempts) == (
        f"{PassingError.__module__}.PassingError: secret",
        "PassingError",
        attempt,
    )
    assert letter.stacktrace
    assert letter.first_seen_at == parts.RECEIVED_AT


@pytest.mark.parametrize(
    ("result", "code"),
    [(PermanentError("never"), ErrorCode.HANDLER_FAILED), ("text", ErrorCode.HANDLER_RESULT_INVALID)],
)
async def test_failure_that_lasts_spends_no_further_attempts(result: object, code: ErrorCode) -> None:
    ledger = ScriptedLedger(parts.claimed(attempt=1))
    outcome = await _outcome(_flow(ledger, CountingHandler(result)))
    assert isinstance(outcome, Failed)
    assert (outcome.letter.code, ledger.names) == (code, ["Claim", "Finish"])


async def test_request_whose_time_to_live_is_over_is_answered_without_being_handled() -> None:
    handler = CountingHandler()
    outcome = await _outcome(_flow(ScriptedLedger(parts.claimed(0, expired=True)), handler))
    assert isinstance(outcome, Expired)
    assert json.loads(outcome.reply.body)["metadata"]["error_code"] == "expired"
    assert handler.calls == []


async def test_failure_that_leaves_no_time_for_another_attempt_is_the_outcome() -> None:
    """It is not the requester's fault: it is answered as what it was, and parked for people."""
    ledger = ScriptedLedger(StepResult.OVERDUE)
    outcome = await _outcome(_flow(ledger, CountingHandler(PassingError("secret"))))
    assert isinstance(outcome, Failed)
    assert json.loads(outcome.reply.body)["metadata"]["error_code"] == "handler_failed"
    assert ledger.names == ["Claim", "Postpone", "Finish"]
    finish = ledger.steps[-1]
    assert isinstance(finish, Finish)
    assert finish.error_code is ErrorCode.HANDLER_FAILED
    assert finish.detail is not None
    assert "PassingError" in finish.detail, "why the last attempt failed is kept"
    assert b"secret" not in outcome.reply.body, "and is none of the requester's business"
    assert outcome.letter.stacktrace is not None
    assert __file__ in outcome.letter.stacktrace


async def test_handler_that_takes_too_long_is_answered_handler_timeout() -> None:
    ledger = ScriptedLedger(StepResult.OVERDUE)
    outcome = await _outcome(_flow(ledger, Gate(), handler_timeout=0.01))
    assert isinstance(outcome, Failed)
    assert outcome.letter.code is ErrorCode.HANDLER_TIMEOUT
    assert outcome.letter.stacktrace is not None
    assert "await self.open.wait()" in outcome.letter.stacktrace, "where it was"


@pytest.mark.parametrize(
    ("claim", "code", "message"),
    [
        (
            {"error_code": "handler_timeout", "detail": "TimeoutError: too long"},
            ErrorCode.HANDLER_TIMEOUT,
            "TimeoutError: too long",
        ),
        ({"error_code": "of a newer release"}, ErrorCode.INTERNAL_ERROR, NO_TIME_AFTER_CRASH),
        ({"crashes": 1}, ErrorCode.INTERNAL_ERROR, NO_TIME_AFTER_CRASH),
        ({"attempt": 0, "crashes": 1}, ErrorCode.INTERNAL_ERROR, NO_TIME_AFTER_CRASH),
        ({"crashes": 99}, ErrorCode.CRASHED_WORKER, "99 workers ended"),
    ],
)
async def test_request_that_expires_after_attempts_ends_with_the_last_ones_failure(
    claim: dict[str, Any], code: ErrorCode, message: str
) -> None:
    """However late its copy comes: nothing runs, and what failed is parked for people."""
    handler, events = CountingHandler(), list[Event]()
    claimed = dataclasses.replace(parts.claimed(expired=True), **claim)
    outcome = await _outcome(_flow(ScriptedLedger(claimed), handler, events.append))
    assert isinstance(outcome, Failed)
    assert json.loads(outcome.reply.body)["metadata"]["error_code"] == code
    assert (outcome.letter.code, message in outcome.letter.message) == (code, True)
    assert outcome.letter.first_seen_at == parts.RECEIVED_AT
    assert handler.calls == []
    (finished,) = events
    assert isinstance(finished, RequestFinished)
    assert finished.outcome == "failed"


@pytest.mark.parametrize(("crashes", "runs"), [(0, 1), (2, 1), (3, 0), (9, 0)])
async def test_request_that_ended_its_workers_is_not_run_again(crashes: int, runs: int) -> None:
    handler = CountingHandler()
    outcome = await _outcome(_flow(ScriptedLedger(parts.claimed(crashes=crashes)), handler, max_crashes=3))
    assert len(handler.calls) == runs
    assert isinstance(outcome, Completed if runs else Failed)
    if isinstance(outcome, Failed):
        assert outcome.letter.code is ErrorCode.CRASHED_WORKER


# ---------------------------------------------------------------------------------- it is not ours


async def test_finished_request_gets_its_stored_answer_at_the_new_address() -> None:
    handler = CountingHandler()
    outcome = await _outcome(
        _flow(ScriptedLedger(_finished()), handler), reply_to="app.reply", correlation_id="2"
    )
    assert isinstance(outcome, Replayed)
    assert (outcome.letter, outcome.reply.body, outcome.reply.replayed) == (None, b"stored", True)
    assert (outcome.reply.reply_to, outcome.reply.correlation_id) == ("app.reply", "2")
    assert handler.calls == []


@pytest.mark.parametrize("code", [None, *ErrorCode])
@pytest.mark.parametrize("parked", [False, True])
async def test_failed_request_that_was_never_parked_is_parked_by_its_duplicate(
    code: ErrorCode | None, parked: bool
) -> None:
    outcome = await _outcome(_flow(ScriptedLedger(_finished(code, parked=parked))))
    assert isinstance(outcome, Replayed)
    assert (outcome.letter is not None) == (code is not None and ERRORS[code].parked and not parked)
    if outcome.letter is not None:
        assert (outcome.letter.message, outcome.letter.attempts) == ("ValueError: x", 6)


async def test_request_that_another_worker_is_just_parking_is_asked_for_again_soon() -> None:
    flow = _flow(ScriptedLedger(_finished(ErrorCode.HANDLER_FAILED, settling=True)), retry_delays=(2, 9))
    assert await _outcome(flow, headers={REQUEUE_COUNT: 3}) == Busy(REQUEST_ID, 2, 4)


@pytest.mark.parametrize(
    ("running", "requeues", "delay"), [(True, 0, 1), (True, 2, 5), (False, 0, 30), (False, 9, 30)]
)
async def test_request_in_other_hands_stays_away_and_counts_its_requeues(
    running: bool, requeues: int, delay: int
) -> None:
    flow = _flow(ScriptedLedger(NotNow(15.0, running)), retry_delays=(1, 5, 30))
    headers = {REQUEUE_COUNT: requeues} if requeues else {}
    assert await _outcome(flow, headers=headers) == Busy(REQUEST_ID, delay, requeues + 1)


@pytest.mark.parametrize("requeues", [-1, "7", None, [1], 10**30, 0.5, b"1"])
async def test_forged_requeues_do_no_harm(requeues: object) -> None:
    outcome = await _outcome(
        _flow(ScriptedLedger(NotNow(15.0, running=True))), headers={REQUEUE_COUNT: requeues}
    )
    assert isinstance(outcome, Busy)
    assert 1 <= outcome.requeues <= 1001


async def test_conflicting_request_is_refused_and_shown_nothing() -> None:
    outcome = await _outcome(_flow(ScriptedLedger(Mismatch())))
    assert isinstance(outcome, Refused)
    assert outcome.reply is not None
    answer = json.loads(outcome.reply.body)
    assert answer["metadata"]["error_code"] == "idempotency_conflict"
    assert answer["payload"]["session_id"] == "ts_000000_none"
    assert outcome.reply.request_id is None, "a note about this answer would be one about the other request"


async def test_refusal_asks_the_ledger_nothing() -> None:
    ledger = ScriptedLedger()
    answerable = await _outcome(_flow(ledger), b"garbage", correlation_id="call-7")
    silent = await _outcome(_flow(ledger), b"garbage")
    assert isinstance(answerable, Refused)
    assert isinstance(silent, Refused)
    assert (answerable.reply is None, silent.reply is None) == (False, True)
    assert ledger.steps == []


async def test_entry_that_the_database_rejects_at_the_claim_is_refused() -> None:
    outcome = await _outcome(_flow(ScriptedLedger(UnstorableError("title"))))
    assert isinstance(outcome, Refused)
    assert outcome.letter.code is ErrorCode.INTERNAL_ERROR
    assert "title" in outcome.letter.message


@pytest.mark.parametrize("error", [UnstorableError("response"), RuntimeError("a bug of ours")])
async def test_outcome_that_cannot_be_recorded_is_recorded_as_failed(error: Exception) -> None:
    """Left as it is, the entry would stay ``processing`` under a live worker, and nobody would answer."""
    ledger = ScriptedLedger()
    ledger.ends = [error]
    events: list[Event] = []
    outcome = await _outcome(_flow(ledger, emit=events.append))
    assert isinstance(outcome, Failed)
    assert (outcome.letter.code, ledger.names) == (ErrorCode.INTERNAL_ERROR, ["Claim", "Finish", "Finish"])
    assert OutcomeNotRecorded(REQUEST_ID, 1, error, operation="create_session") in events
    assert b'response"' not in outcome.reply.body


@pytest.mark.parametrize(
    "result", [None, PassingError(), Rejected("no")], ids=["finish", "postpone", "reject"]
)
async def test_result_of_a_worker_that_was_overtaken_is_dropped_and_the_request_claimed_anew(
    result: object,
) -> None:
    ledger = ScriptedLedger(parts.claimed(), _finished(), StepResult.FENCED)
    outcome = await _outcome(_flow(ledger, CountingHandler(result)))
    assert isinstance(outcome, Replayed)
    first, last = ledger.steps[0], ledger.steps[-1]
    assert isinstance(first, Claim)
    assert isinstance(last, Claim)
    assert first.token != last.token


# ----------------------------------------------------------------------------------- side by side


class Gate:
    """A handler that says who is inside and lets go when told."""

    def __init__(self) -> None:
        self.inside = 0
        self.most = 0
        self.open = asyncio.Event()

    async def __call__(self, request: CreateSessionRequest, context: Context) -> None:
        self.inside += 1
        self.most = max(self.most, self.inside)
        try:
            await self.open.wait()
        finally:
            self.inside -= 1


async def _breathe() -> None:
    for _ in range(30):
        await asyncio.sleep(0)


@asynccontextmanager
async def _serving(flow: Flow, ids: list[UUID]) -> AsyncIterator[list[asyncio.Task[Outcome]]]:
    tasks = [asyncio.ensure_future(_outcome(flow, parts.body(one))) for one in ids]
    await _breathe()
    yield tasks
    await asyncio.wait(tasks, timeout=5)


@pytest.mark.parametrize(("concurrency", "suspect", "most"), [(3, False, 3), (8, False, 5), (10, True, 1)])
async def test_as_many_requests_run_as_there_are_slots_and_suspects_one_by_one(
    concurrency: int, suspect: bool, most: int
) -> None:
    gate, ledger = Gate(), ScriptedLedger()
    if suspect:

        async def claim(claim: Claim) -> ClaimAnswer:
            return parts.claimed(crashes=2) if claim.suspect_after is None else Suspect()

        ledger.claim = claim  # type: ignore[method-assign]
    async with _serving(_flow(ledger, gate, concurrency=concurrency), [uuid4() for _ in range(5)]) as tasks:
        assert gate.inside == most
        gate.open.set()
    assert all(isinstance(task.result(), Completed) for task in tasks)
    assert gate.most == most


class HauntedLedger(ScriptedLedger):
    """Some requests saw several workers die."""

    def __init__(self, suspects: list[UUID]) -> None:
        super().__init__()
        self.suspects = suspects

    async def claim(self, claim: Claim) -> ClaimAnswer:
        self.steps.append(claim)
        await asyncio.sleep(0)
        if claim.request_id not in self.suspects:
            return parts.claimed()
        return parts.claimed(crashes=2) if claim.suspect_after is None else Suspect()


async def test_suspects_leave_slots_to_the_others_and_all_get_their_turn() -> None:
    """One runs, one waits in its slot, the others go round; a fresh request completes beside them."""
    suspects = [uuid4() for _ in range(4)]
    gate, ledger = Gate(), HauntedLedger(suspects)

    async def handle(request: CreateSessionRequest, context: Context) -> None:
        if context.request_id in suspects:
            await gate(request, context)

    flow = _flow(ledger, handle, concurrency=4)
    async with _serving(flow, suspects) as tasks:
        assert [task.done() for task in tasks] == [False, False, True, True]
        assert isinstance(await asyncio.wait_for(_outcome(flow), 1), Completed)
        assert gate.inside == 1
        gate.open.set()
    outcomes = [task.result() for task in tasks]
    assert [type(outcome) for outcome in outcomes] == [Completed, Completed, Busy, Busy]
    async with _serving(flow, suspects[2:]) as tasks:
        pass
    assert [type(task.result()) for task in tasks] == [Completed, Completed]
    assert gate.most == 1


async def test_suspect_that_waited_too_long_goes_round_and_gives_its_place_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("session_worker.requests.flow.SUSPECT_SECONDS", 0.2)
    suspects = [uuid4() for _ in range(3)]
    gate = Gate()
    flow = _flow(HauntedLedger(suspects), gate, concurrency=4)
    async with _serving(flow, suspects[:2]) as (first, second):
        assert isinstance(await asyncio.wait_for(second, 5), Busy)
        async with _serving(flow, suspects[2:]) as (third,):
            assert not third.done()
            gate.open.set()
    assert isinstance(first.result(), Completed)
    assert isinstance(third.result(), Completed)


@pytest.mark.parametrize(("requeues", "delay"), [(0, 1), (1, 5), (2, 30), (1000, 30)])
async def test_suspect_without_a_place_stays_away_longer_each_time_but_never_for_long(
    requeues: int, delay: int
) -> None:
    suspects = [REQUEST_ID, uuid4()]
    gate, ledger = Gate(), HauntedLedger(suspects)
    flow = _flow(ledger, gate, concurrency=2, retry_delays=(1, 5, 30, 120, 600))
    async with _serving(flow, suspects[1:]):
        assert await _outcome(flow, headers={REQUEUE_COUNT: requeues}) == Busy(
            REQUEST_ID, delay, requeues + 1
        )
        gate.open.set()
    limits = [step.suspect_after for step in ledger.steps if isinstance(step, Claim)]
    assert limits == [2, None, 2]


async def test_suspect_waits_no_longer_than_the_broker_leaves_it_time_to_run() -> None:
    suspects = [uuid4() for _ in range(2)]
    gate = Gate()
    flow = _flow(
        HauntedLedger(suspects),
        gate,
        concurrency=4,
        handler_timeout=CONSUMER_TIMEOUT - 10.2,
        shutdown_grace=10,
    )
    async with _serving(flow, suspects) as (_, second):
        assert isinstance(await asyncio.wait_for(second, 5), Busy)
        gate.open.set()


async def _cancel(task: asyncio.Task[Outcome]) -> None:
    task.cancel()
    await asyncio.wait({task}, timeout=5)


async def test_interrupted_attempt_is_handed_back_and_its_delivery_settled_afterwards() -> None:
    """The task goes on after its release: it still has to requeue the delivery."""
    gate, ledger = Gate(), ScriptedLedger()
    events: list[Event] = []
    flow = _flow(ledger, gate, events.append)
    async with _serving(flow, [REQUEST_ID]) as (task,):
        flow.stopping = True
        await _cancel(task)
    assert events == [RequestHandedBack(REQUEST_ID, 1, operation="create_session")]
    assert isinstance(task.result(), Interrupted)
    assert ledger.names == ["Claim", "Release"]
    assert task.cancelling() == 0


async def test_attempt_that_somebody_else_cancels_is_spent() -> None:
    """A handler that cancels all there is would be handed back, and do so again, for ever."""
    gate, ledger = Gate(), ScriptedLedger()
    async with _serving(_flow(ledger, gate), [REQUEST_ID]) as (task,):
        await _cancel(task)
    assert isinstance(task.result(), RetryLater)
    assert ledger.names == ["Claim", "Postpone"]
    assert task.cancelling() == 0


async def test_waiting_delivery_that_is_cancelled_claims_nothing() -> None:
    gate, ledger = Gate(), ScriptedLedger()
    async with _serving(_flow(ledger, gate, concurrency=1), [uuid4(), uuid4()]) as (first, second):
        await _cancel(second)
        gate.open.set()
    assert second.cancelled()
    assert isinstance(first.result(), Completed)
    assert ledger.names == ["Claim", "Finish"]


# ------------------------------------------------------------------------------------------- events


NOW = parts.RECEIVED_AT.timestamp() + 60
"""When these requests are handled; they were first claimed a minute before."""
STAMPED = parts.body(REQUEST_ID, timestamp="2026-01-02T03:04:00+00:00")
"""Published five seconds before its first claim."""


def _rounded(event: Event) -> Event:
    """The event without its times and places, which differ from run to run."""
    changes: dict[str, Any] = {
        name: 0.0 for name in ("seconds", "queue_wait") if getattr(event, name, None) is not None
    }
    if isinstance(event, AttemptFailed):
        changes["exception"] = "Traceback" if "Traceback (most recent call last)" in event.exception else ""
    if isinstance(event, RequestFinished) and event.error is not None:
        changes["error"] = re.sub(r"(; in \S+ \(\S+:\d+\))+$", "", event.error)
    return dataclasses.replace(event, **changes)  # type: ignore[type-var]


@pytest.mark.parametrize(
    ("ledger", "result", "told"),
    [
        (
            [],
            None,
            [
                AttemptEnded(REQUEST_ID, 1, 0.0, 0.0, operation="create_session"),
                RequestFinished(REQUEST_ID, 1, "completed", None, None, 0.0, operation="create_session"),
            ],
        ),
        (
            [parts.claimed(attempt=3)],
            Rejected("no"),
            [
                AttemptEnded(REQUEST_ID, 3, 0.0, None, operation="create_session"),
                RequestFinished(
                    REQUEST_ID, 3, "rejected", ErrorCode.REJECTED, None, 0.0, operation="create_session"
                ),
            ],
        ),
        (
            [parts.claimed(0, expired=True)],
            None,
            [
                RequestFinished(
                    REQUEST_ID, 0, "expired", ErrorCode.EXPIRED, None, 0.0, operation="create_session"
                )
            ],
        ),
        (
            [],
            PermanentError("bug"),
            [
                AttemptEnded(REQUEST_ID, 1, 0.0, 0.0, operation="create_session"),
                AttemptFailed(
                    REQUEST_ID,
                    1,
                    ErrorCode.HANDLER_FAILED,
                    "session_worker.operations.handler.PermanentError: bug",
                    None,
                    "Traceback",
                    operation="create_session",
                ),
                RequestFinished(
                    REQUEST_ID,
                    1,
                    "failed",
                    ErrorCode.HANDLER_FAILED,
                    "session_worker.operations.handler.PermanentError: bug",
                    0.0,
                    operation="create_session",
                ),
            ],
        ),
        (
            [parts.claimed(crashes=99)],
            None,
            [
                RequestFinished(
                    REQUEST_ID, 1, "failed", ErrorCode.CRASHED_WORKER, None, 0.0, operation="create_session"
                )
            ],
        ),
        (
            [StepResult.FENCED, parts.claimed(attempt=2)],
            None,
            [
                AttemptEnded(REQUEST_ID, 1, 0.0, 0.0, operation="create_session"),
                RequestTakenOver(REQUEST_ID, 1, operation="create_session"),
                AttemptEnded(REQUEST_ID, 2, 0.0, None, operation="create_session"),
                RequestFinished(REQUEST_ID, 2, "completed", None, None, 0.0, operation="create_session"),
            ],
        ),
        ([NotNow(5, running=True)], None, []),
        ([Mismatch()], None, []),
    ],
    ids=["completed", "rejected", "expired", "failed", "crashed", "taken over", "busy", "conflict"],
)
async def test_each_end_of_a_claimed_request_is_told_once(
    ledger: list[Any], result: object, told: list[Event]
) -> None:
    """What is refused, or has its answer already, is told by whoever settles it."""
    events: list[Event] = []
    flow = _flow(
        ScriptedLedger(parts.claimed(), *ledger) if StepResult.FENCED in ledger else ScriptedLedger(*ledger),
        CountingHandler(result),
        events.append,
    )
    await _outcome(flow, STAMPED)
    assert [_rounded(event) for event in events] == told


@pytest.mark.parametrize(
    ("answer", "ending", "next_attempt_in"),
    [
        (7, [], 7),
        (StepResult.OVERDUE, [RequestFinished], None),
        (StepResult.FENCED, [RequestTakenOver, AttemptEnded, AttemptFailed], None),
    ],
)
async def test_each_failed_attempt_is_told_with_its_traceback(
    answer: int | StepResult, ending: list[type[Event]], next_attempt_in: int | None
) -> None:
    """Whatever becomes of its request: nobody has to wait for the last attempt to see why."""
    events: list[Event] = []
    await _outcome(_flow(ScriptedLedger(answer), CountingHandler(PassingError()), events.append))
    assert isinstance(events[0], AttemptEnded)
    failed, *rest = events[1:]
    assert isinstance(failed, AttemptFailed)
    assert (failed.request_id, failed.attempt, failed.next_attempt_in) == (REQUEST_ID, 1, next_attempt_in)
    assert (failed.error_code, "PassingError" in failed.error) == (ErrorCode.HANDLER_FAILED, True)
    assert "raise self.result" in failed.exception
    assert [type(event) for event in rest] == ending


@pytest.mark.parametrize(
    ("content", "fields", "critical", "wait"),
    [
        (STAMPED, {"timestamp": 1}, 65.0, 65.0),
        (parts.body(REQUEST_ID), {"timestamp": int(NOW) - 70}, 70.0, 70.0),
        (parts.body(REQUEST_ID, timestamp="2026-01-02T03:04:00"), {}, 60.0, None),
        (parts.body(REQUEST_ID), {}, 60.0, None),
        (parts.body(REQUEST_ID, timestamp="2099-01-02T03:04:00Z"), {}, 0.0, 0.0),
        (parts.body(REQUEST_ID, timestamp="0001-01-01T00:00:00Z"), {}, MAX_AGE, MAX_AGE),
        (STAMPED, {"headers": {REDRIVE_COUNT: 1}}, 0.0, 0.0),
    ],
    ids=["body", "property", "no offset", "unknown", "future", "ancient", "replayed by an operator"],
)
async def test_times_count_from_when_the_requester_says_that_it_published(
    content: bytes,
    fields: dict[str, Any],
    critical: float,
    wait: float | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(time, "time", lambda: NOW)
    monkeypatch.setattr(ClaimedRequest, "seconds", 0.0)
    events: list[Event] = []
    outcome = await _outcome(_flow(ScriptedLedger(), emit=events.append), content, **fields)
    assert isinstance(outcome, Completed)
    assert outcome.reply.published is not None
    assert age(outcome.reply.published) == pytest.approx(critical)
    assert isinstance(events[0], AttemptEnded)
    assert events[0].queue_wait == (wait if wait is None else pytest.approx(wait))
