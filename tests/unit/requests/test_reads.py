"""Reads, which claim nothing, and what any operation's binding decides about its requests."""

import asyncio
import json
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, cast
from uuid import UUID

import pytest
from pydantic import BaseModel

from session_contracts import CLOSE_SESSION, GET_SESSION, ErrorCode, Names, Operation, SessionPayload
from session_worker import App, Context, Rejected, RetryLater
from session_worker.ledger.protocol import Finish, Ledger, Postpone
from session_worker.operations.binding import Binding, Limits
from session_worker.operations.handler import PermanentError
from session_worker.requests.flow import NO_LIMIT, Flow
from session_worker.requests.outcomes import Answered, Completed, Failed, Interrupted, Outcome, Refused
from session_worker.requests.outcomes import Rejected as RejectedOutcome
from session_worker.requests.outcomes import RetryLater as Later
from session_worker.requests.parse import RequestParser
from session_worker.requests.response import ResponseBuilder
from session_worker.telemetry.events import AttemptFailed, Event, RequestFinished
from tests.support import parts
from tests.unit.requests.test_flow import REQUEST_ID, ScriptedLedger

SESSION = "ts_251013_usernone_abc123"
LOST_TWICE: dict[str, Any] = {"redelivered": True, "headers": {"x-delivery-count": 2}}


class Ask(BaseModel):
    minutes: int


class Told(BaseModel):
    minutes: float
    note: str = ""


EXTEND = Operation("extend_session", Ask, Told)


class LedgerWithSessions(ScriptedLedger):
    """Knows one session, of ``user@example.com``."""

    def __init__(self, *answers: Any, active: bool = True) -> None:
        super().__init__(*answers)
        self.active = active

    async def get_session(self, session_id: str, user_id: str) -> SessionPayload | None:
        if (session_id, user_id) != (SESSION, "user@example.com"):
            return None
        return SessionPayload(
            session_id=session_id,
            user_id=user_id,
            created_at="2025-10-13T14:30:00.000+00:00",
            updated_at="2025-10-13T14:30:00.000+00:00",
            active=self.active,
            request_count=1,
            event_count=3,
        )


class Bench:
    """A flow for one binding, and what it told and wrote."""

    def __init__(
        self,
        binding: Binding,
        ledger: ScriptedLedger | None = None,
        room: AbstractAsyncContextManager[object] = NO_LIMIT,
        **settings: Any,
    ) -> None:
        self.ledger = ledger or LedgerWithSessions()
        self.events: list[Event] = []
        made = parts.worker_settings(**settings)
        names = Names().of(binding.operation.key)
        self.flow = Flow(
            binding,
            binding.limits(Limits.of(made)),
            ledger=cast("Ledger", self.ledger),
            parser=RequestParser(binding, names, max_body_bytes=4096, reply_to_allow=made.reply_to_allow),
            responses=ResponseBuilder("w", binding),
            settings=made,
            emit=self.events.append,
            room=room,
        )

    async def decide(self, payload: object, fields: dict[str, Any] | None = None, **sent: Any) -> Outcome:
        document = {"request_id": str(REQUEST_ID), "user_id": "user@example.com", "payload": payload}
        delivery = parts.delivery(json.dumps(document | (fields or {})).encode(), **sent)
        return await self.flow.decide(await self.flow.parse(delivery))

    @property
    def endings(self) -> list[tuple[str, ErrorCode | None]]:
        told = [event for event in self.events if isinstance(event, RequestFinished)]
        return [(event.outcome, event.error_code) for event in told]


def built_in(name: str) -> Binding:
    return next(binding for binding in App().bindings if binding.operation.name == name)


def extending(handle: Callable[[Any, Context[Any]], Any], **options: Any) -> Binding:
    """The binding of EXTEND to ``handle``."""

    async def extend(request: Any, context: Context) -> Any:
        result = handle(request, context)
        return await result if asyncio.iscoroutine(result) else result

    extend.__annotations__ = {"request": Any, "context": Context, "return": Told}
    app = App()
    app.operation(EXTEND, **options)(extend)
    return app.bindings[-1]


def body_of(outcome: Outcome) -> dict[str, Any]:
    """The response, which its operation's model accepts."""
    reply = cast("Any", outcome).reply
    found: dict[str, Any] = json.loads(reply.body)
    return found


# ------------------------------------------------------------------------------------------- reads


async def test_a_read_is_answered_and_nothing_is_written() -> None:
    bench = Bench(built_in("get_session"))
    outcome = await bench.decide({"session_id": SESSION.upper()})
    assert isinstance(outcome, Answered)
    response = GET_SESSION.response_model.model_validate_json(outcome.reply.body)
    assert response.payload is not None
    assert response.payload.session_id == SESSION
    assert (outcome.reply.token, outcome.reply.request_id) == (None, REQUEST_ID)
    assert bench.ledger.steps == []
    assert bench.endings == [("completed", None)]


async def test_a_built_in_read_waits_for_the_ledger_and_is_not_cut_off() -> None:
    """Its own code takes no time: what keeps it waiting is the ledger, or others' use of the processor."""

    class SlowLedger(LedgerWithSessions):
        async def get_session(self, session_id: str, user_id: str) -> SessionPayload | None:
            await asyncio.sleep(0.1)
            return await super().get_session(session_id, user_id)

    bench = Bench(built_in("get_session"), SlowLedger(), handler_timeout=0.01)
    assert body_of(await bench.decide({"session_id": SESSION}))["status"] == "completed"


async def test_a_built_in_read_that_waits_when_the_worker_stops_is_handed_back() -> None:
    waiting = asyncio.Event()

    class SilentLedger(LedgerWithSessions):
        async def get_session(self, session_id: str, user_id: str) -> SessionPayload | None:
            waiting.set()
            await asyncio.Event().wait()
            return None

    bench = Bench(built_in("get_session"), SilentLedger())
    task = asyncio.create_task(bench.decide({"session_id": SESSION}))
    await waiting.wait()
    bench.flow.stopping = True
    task.cancel()
    assert isinstance(await task, Interrupted)


async def test_sessions_of_others_and_those_that_are_not_there_look_alike() -> None:
    bench = Bench(built_in("get_session"))
    missing = body_of(await bench.decide({"session_id": "ts_251013_x"}))
    foreign = body_of(await bench.decide({"session_id": SESSION}, {"user_id": "eve"}))
    for response in (missing, foreign):
        assert (response["status"], response["payload"]) == ("failed", None)
        assert response["metadata"]["error_code"] == "session_not_found"
    assert missing["error"] == foreign["error"]
    assert bench.endings == [("rejected", ErrorCode.SESSION_NOT_FOUND)] * 2


async def test_a_read_that_fails_is_answered_and_not_parked() -> None:
    def fail(*_: object) -> None:
        raise PermanentError("no such table")

    bench = Bench(extending(fail, effects="none"))
    outcome = await bench.decide({"minutes": 5})
    assert isinstance(outcome, Answered)
    assert body_of(outcome)["metadata"]["error_code"] == "handler_failed"
    assert "no such table" not in body_of(outcome)["error"]
    assert any(isinstance(event, AttemptFailed) and event.next_attempt_in is None for event in bench.events)


async def test_a_read_that_has_expired_is_told_so_and_not_carried_out() -> None:
    calls: list[object] = []
    bench = Bench(extending(lambda *call: calls.append(call), effects="none"))
    outcome = await bench.decide({"minutes": 5}, expiration="0")
    assert body_of(outcome)["metadata"]["error_code"] == "expired"
    assert calls == []


async def test_a_read_of_a_user_that_was_lost_twice_is_claimed_like_any_request() -> None:
    """So its crashes are counted. A built-in read runs nobody's code, and is answered at once."""
    bench = Bench(extending(lambda *_: Told(minutes=5), effects="none"))
    assert isinstance(await bench.decide({"minutes": 5}, **LOST_TWICE), Completed)
    assert bench.ledger.names == ["Claim", "Finish"]
    ours = Bench(built_in("get_session"))
    assert isinstance(await ours.decide({"session_id": SESSION}, **LOST_TWICE), Answered)


async def test_a_claimed_read_is_not_tried_later_as_it_has_no_retry_queue() -> None:
    def fail(*_: object) -> None:
        raise OSError("away")

    bench = Bench(extending(fail, effects="none"))
    assert isinstance(await bench.decide({"minutes": 5}, **LOST_TWICE), Failed)


async def test_a_read_that_runs_when_the_worker_stops_is_handed_back() -> None:
    started = asyncio.Event()

    async def wait() -> None:
        started.set()
        await asyncio.Event().wait()

    bench = Bench(extending(lambda *_: wait(), effects="none"))
    task = asyncio.create_task(bench.decide({"minutes": 5}))
    await started.wait()
    bench.flow.stopping = True
    task.cancel()
    assert isinstance(await task, Interrupted)


# --------------------------------------------------------------------------- operations of users


async def test_an_operation_of_a_user_completes_with_its_result_as_payload() -> None:
    bench = Bench(extending(lambda request, _: Told(minutes=request.payload.minutes)))
    outcome = await bench.decide({"minutes": 5}, {"session_id": SESSION})
    assert isinstance(outcome, Completed)
    response = EXTEND.response_model.model_validate_json(outcome.reply.body)
    assert response.payload == Told(minutes=5)
    claim, finish = bench.ledger.steps
    assert (claim.session_id, claim.operation) == (SESSION, "extend_session")  # type: ignore[union-attr]
    assert isinstance(finish, Finish)
    assert finish.session is None, "it creates no session"


async def test_its_failed_response_carries_no_payload() -> None:
    def no(*_: object) -> None:
        raise Rejected("too long", code="limit")

    outcome = await Bench(extending(no)).decide({"minutes": 5})
    assert isinstance(outcome, RejectedOutcome)
    response = body_of(outcome)
    assert (response["payload"], response["error"]) == (None, "too long")
    assert response["metadata"]["rejection_code"] == "limit"


@pytest.mark.parametrize(
    ("payload", "error"),
    [
        ({"minutes": "soon"}, "payload.minutes: must be a whole number"),
        ({}, "payload.minutes: is required"),
        ([], "payload: must be an object"),
        ({"minutes": 5, "note": {"a": ["\0"]}}, "payload.note.a.0: must not hold a NUL character"),
    ],
)
async def test_a_wrong_payload_is_refused_with_the_fields_name(payload: object, error: str) -> None:
    outcome = await Bench(extending(lambda *_: None)).decide(payload)
    assert isinstance(outcome, Refused)
    assert outcome.letter.code is ErrorCode.INVALID_REQUEST
    assert body_of(outcome)["error"] == error
    assert body_of(outcome)["payload"] is None


async def test_a_request_for_another_operation_is_refused() -> None:
    outcome = await Bench(extending(lambda *_: None)).decide(
        {"minutes": 5}, {"operation": CLOSE_SESSION.name}
    )
    assert isinstance(outcome, Refused)
    assert outcome.letter.code is ErrorCode.UNSUPPORTED_OPERATION
    assert body_of(outcome)["error"] == "operation: must be extend_session"


@pytest.mark.parametrize(
    "result",
    [None, {"minutes": 5}, Ask(minutes=5), Told(minutes=float("nan")), Told(minutes=1, note="x" * 70_000)],
)
async def test_a_result_that_its_model_would_not_accept_is_not_sent(result: object) -> None:
    outcome = await Bench(extending(lambda *_: result)).decide({"minutes": 5})
    assert isinstance(outcome, Failed)
    assert outcome.letter.code is ErrorCode.HANDLER_RESULT_INVALID


# ------------------------------------------------------------------------- the session it names


@pytest.mark.parametrize(
    ("session_id", "active", "code"),
    [
        (SESSION, True, None),
        (SESSION, False, ErrorCode.SESSION_CLOSED),
        ("ts_251013_x", True, ErrorCode.SESSION_NOT_FOUND),
    ],
)
async def test_an_operation_that_needs_a_session_gets_an_open_one(
    session_id: str, active: bool, code: ErrorCode | None
) -> None:
    calls: list[object] = []

    def handle(*call: object) -> Told:
        calls.append(call)
        return Told(minutes=1)

    bench = Bench(extending(handle, needs_session=True), LedgerWithSessions(active=active))
    response = body_of(await bench.decide({"minutes": 5}, {"session_id": session_id}))
    assert response["metadata"].get("error_code") == code
    assert len(calls) == (code is None)


async def test_an_operation_that_needs_a_session_refuses_requests_that_name_none() -> None:
    outcome = await Bench(extending(lambda *_: None, needs_session=True)).decide({"minutes": 5})
    assert isinstance(outcome, Refused)
    assert body_of(outcome)["error"] == "session_id: is required; name an open session of this user"


# ------------------------------------------------------------------------------- asking for later


@pytest.mark.parametrize(("after", "queue"), [(0.5, 1), (60, 30), (100, 120), (5000, 600)])
async def test_the_handler_says_when_the_next_attempt_is_due(after: float, queue: int) -> None:
    """The entry is due then; the delivery goes round until it is."""
    calls: list[object] = []

    def later(*call: object) -> None:
        calls.append(call)
        raise RetryLater("the room is being cleaned", after=after)

    bench = Bench(extending(later))
    outcome = await bench.decide({"minutes": 5})
    assert outcome == Later(REQUEST_ID, queue, 1)
    postpone = bench.ledger.steps[-1]
    assert isinstance(postpone, Postpone)
    assert postpone.delays[-1] == max(after, 1)
    assert len(calls) == 1, "it is not tried again at once"
    assert isinstance(REQUEST_ID, UUID)


async def test_asking_for_later_counts_as_an_attempt() -> None:
    def later(*_: object) -> None:
        raise RetryLater(after=1)

    bench = Bench(extending(later, max_attempts=3), LedgerWithSessions(parts.claimed(attempt=3)))
    outcome = await bench.decide({"minutes": 5})
    assert isinstance(outcome, Failed)
    assert outcome.letter.code is ErrorCode.HANDLER_FAILED


@pytest.mark.parametrize("after", [0, -1, 86_401, float("nan")])
def test_later_is_more_than_now_and_less_than_a_day(after: float) -> None:
    with pytest.raises(ValueError, match="after: must be more than 0 and at most 86400 seconds"):
        RetryLater(after=after)


async def test_limits_that_an_operation_states_are_its_own_and_the_others_the_settings() -> None:
    bench = Bench(extending(lambda *_: None, timeout=7, retry_delays=(2, 9)), max_attempts=4)
    assert bench.flow.limits == Limits(7, 4, 256, (2, 9))


async def test_operations_that_share_a_room_take_turns_in_it() -> None:
    """However many requests each of them may have in hand; what is built in does not wait for it."""
    room, gate = asyncio.Semaphore(2), asyncio.Event()
    running: list[str] = []

    async def wait(name: str) -> Told:
        running.append(name)
        await gate.wait()
        return Told(minutes=1)

    benches = [
        Bench(extending(lambda *_: wait("read"), effects="none"), room=room),
        Bench(extending(lambda *_: wait("write")), room=room),
    ]
    asked = [asyncio.create_task(bench.decide({"minutes": 5})) for bench in benches for _ in range(3)]
    await asyncio.sleep(0.05)
    assert len(running) == 2
    reading = await Bench(built_in("get_session"), room=room).decide({"session_id": SESSION})
    assert isinstance(reading, Answered)
    gate.set()
    assert all(isinstance(outcome, Answered | Completed) for outcome in await asyncio.gather(*asked))
    assert len(running) == 6


async def test_frames_of_a_plain_function_are_its_own() -> None:
    def plain(request: Any, context: Context) -> Told:
        raise PermanentError("from a thread")

    app = App()
    app.operation(EXTEND)(plain)
    outcome = await Bench(app.bindings[-1]).decide({"minutes": 5})
    assert isinstance(outcome, Failed)
    trace = outcome.letter.stacktrace or ""
    assert "from a thread" in trace
    assert "in_thread" not in trace
    assert "concurrent" not in trace
