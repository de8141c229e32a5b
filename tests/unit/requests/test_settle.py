"""What is done about an outcome: in which order, with which properties, and always exactly once."""

import asyncio
import dataclasses
import hashlib
import time
from typing import TYPE_CHECKING, Any, cast
from uuid import UUID, uuid4

import pytest

from session_client.net.errors import LinkLostError
from session_contracts import ErrorCode, amqp
from session_worker.messages.delivery import CUT_BYTES, Delivery
from session_worker.messages.errors import (
    NackedError,
    PublishError,
    TooLongError,
    UnconfirmedError,
    UnroutableError,
    UnsendableError,
)
from session_worker.messages.message import Message
from session_worker.operations.built_in import CREATE
from session_worker.requests.outcomes import (
    Busy,
    Completed,
    Expired,
    Failed,
    Interrupted,
    Letter,
    Outcome,
    Refused,
    Rejected,
    Replayed,
    Reply,
    RetryLater,
)
from session_worker.requests.request import NIL_ID, Refusal, Request
from session_worker.requests.settle import SPARE_BYTES, Settler
from session_worker.telemetry.events import (
    CopyNotTaken,
    DeliveryLeft,
    Event,
    ReplyConfirmed,
    ReplyUndeliverable,
    RequestFinished,
    RequestParked,
)
from tests.support import parts
from tests.support.parts import CountingReceipt

if TYPE_CHECKING:
    from collections.abc import Callable

    from session_worker.ledger.protocol import Ledger

REQUEST_ID = UUID(int=7)
TOKEN = UUID(int=8)
DIRECT = "amq.rabbitmq.reply-to.g1h2"
REPLY = Reply(b"answer", "app.reply", "call-7", REQUEST_ID, TOKEN)
REFUSAL = Reply(b"refusal", "app.reply", "call-7")
LETTER = Letter(
    ErrorCode.HANDLER_FAILED, "ValueError: x", REQUEST_ID, "ValueError", "Traceback", 6, parts.RECEIVED_AT
)
PUBLISHED = 1_000_000.0
REFUSED = Letter(ErrorCode.UNREADABLE, "body: is not JSON")

OUTCOMES: dict[str, tuple[Outcome, list[str]]] = {
    "completed": (Completed(REPLY), ["app.reply", "sent", "ack"]),
    "rejected": (Rejected(REPLY), ["app.reply", "sent", "ack"]),
    "expired": (Expired(REPLY), ["app.reply", "sent", "ack"]),
    "replayed": (Replayed(REPLY), ["app.reply", "sent", "ack"]),
    "replayed, not parked": (
        Replayed(REPLY, LETTER),
        ["app.reply", "sent", "session.create.dead", "parked", "ack"],
    ),
    "failed": (Failed(REPLY, LETTER), ["app.reply", "sent", "session.create.dead", "parked", "ack"]),
    "refused": (Refused(REFUSAL, REFUSED), ["app.reply", "session.create.dead", "ack"]),
    "refused, unanswerable": (Refused(None, REFUSED), ["session.create.dead", "ack"]),
    "retry": (RetryLater(REQUEST_ID, 5, 1), ["session.create.retry.5s", "ack"]),
    "busy": (Busy(REQUEST_ID, 30, 2), ["session.create.retry.30s", "ack"]),
    "busy without id": (Busy(None, 30, 2), ["session.create.retry.30s", "ack"]),
    "interrupted": (Interrupted(), ["requeue"]),
}
PUBLISHING = {name: outcome for name, (outcome, steps) in OUTCOMES.items() if len(steps) > 1}


class Bench:
    """A settler whose broker, ledger and receipt write into one log, in the order of events."""

    def __init__(self, **faults: list[Exception]) -> None:
        self.log: list[str] = []
        self.messages: list[Message] = []
        self.events: list[Event] = []
        self.faults = {name.replace("_", "."): errors for name, errors in faults.items()}
        self.receipt = self._receipt()
        self.on_publish: Callable[[], None] = lambda: None
        self.settler = Settler(
            self._publish,
            cast("Ledger", self),
            CREATE,
            parts.NAMES,
            worker_id="worker-7",
            slowest_retry=600,
            emit=self.events.append,
        )

    def _receipt(self) -> CountingReceipt:
        receipt = CountingReceipt()
        receipt.settled = self.log
        return receipt

    async def _publish(self, message: Message) -> None:
        self.on_publish()
        self.messages.append(message)
        self.log.append(message.queue)
        if errors := self.faults.get(message.queue):
            raise errors.pop(0)

    def note_sent(self, request_id: UUID, token: UUID) -> None:
        self._note("sent", request_id, token)

    async def note_undeliverable(self, request_id: UUID, token: UUID) -> None:
        self._note("undeliverable", request_id, token)

    async def note_parked(self, request_id: UUID, token: UUID) -> None:
        self._note("parked", request_id, token)

    def _note(self, what: str, request_id: UUID, token: UUID) -> None:
        assert (request_id, token) == (REQUEST_ID, TOKEN)
        self.log.append(what)

    async def settle(self, outcome: Outcome, content: bytes = b"{}", **fields: Any) -> list[str]:
        await self.settler.settle(self.delivery(content, **fields), outcome)
        return self.log

    def delivery(self, content: bytes = b"{}", **fields: Any) -> Delivery:
        return parts.delivery(content, receipt=self.receipt, **fields)


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses between tries, which take no time here."""
    found: list[float] = []

    async def sleep(seconds: float) -> None:
        found.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    return found


@pytest.mark.parametrize(("outcome", "steps"), OUTCOMES.values(), ids=OUTCOMES)
async def test_outcome_is_settled_in_order_and_once(outcome: Outcome, steps: list[str]) -> None:
    """Reply, its note, copy, its note; and the acknowledgement last of all."""
    assert await Bench().settle(outcome) == steps


@pytest.mark.parametrize("outcome", PUBLISHING.values(), ids=PUBLISHING)
async def test_nothing_is_published_for_a_delivery_that_cannot_be_acknowledged(outcome: Outcome) -> None:
    bench = Bench()
    bench.receipt.valid = False
    assert await bench.settle(outcome) == []


@pytest.mark.parametrize("outcome", [Completed(REPLY), RetryLater(REQUEST_ID, 5, 1)], ids=["reply", "copy"])
async def test_nothing_is_tried_again_once_the_delivery_cannot_be_acknowledged(outcome: Outcome) -> None:
    """The link may have been rebuilt between two tries: the delivery comes again, and with it the message."""
    full: list[Exception] = [NackedError("full")] * 2
    bench = Bench(app_reply=list(full), session_create_retry_5s=list(full))

    def expire() -> None:
        bench.receipt.valid = False

    bench.on_publish = expire
    assert len(await bench.settle(outcome)) == 1


@pytest.mark.parametrize("outcome", PUBLISHING.values(), ids=PUBLISHING)
async def test_delivery_is_left_to_the_broker_when_the_link_is_lost(outcome: Outcome) -> None:
    bench = Bench()

    def lose() -> None:
        raise LinkLostError("reset")

    bench.on_publish = lose
    assert await bench.settle(outcome) == []
    assert bench.settler.stuck == 0


# ------------------------------------------------------------------------------------------ replies


async def test_reply_has_the_properties_of_the_contract() -> None:
    bench = Bench()
    await bench.settle(Completed(REPLY))
    (message,) = bench.messages
    properties = message.properties
    assert (message.body, message.mandatory) == (b"answer", True)
    assert (properties.content_type, properties.type) == ("application/json", "CreateSessionResponse")
    assert (properties.correlation_id, properties.persistent, properties.headers) == ("call-7", True, None)
    assert properties.timestamp == pytest.approx(time.time(), abs=60)
    assert (properties.expiration, properties.reply_to) == (None, None)


async def test_replayed_reply_says_so_in_a_header() -> None:
    bench = Bench()
    await bench.settle(Replayed(Reply(b"stored", "app.reply", "call-7", REQUEST_ID, TOKEN, replayed=True)))
    assert bench.messages[0].properties.headers == {"x-idempotent-replayed": True}
    assert bench.messages[0].body == b"stored"


async def test_direct_reply_is_not_mandatory_and_its_arrival_not_noted() -> None:
    """The broker cannot know whether it arrived: neither sent nor undeliverable."""
    bench = Bench()
    assert await bench.settle(Completed(Reply(b"answer", DIRECT, "call-7", REQUEST_ID))) == [DIRECT, "ack"]
    assert not bench.messages[0].mandatory


@pytest.mark.parametrize(
    "error", [NackedError("full"), UnconfirmedError("late")], ids=["nacked", "unconfirmed"]
)
async def test_reply_that_is_not_taken_three_times_is_undeliverable(
    error: PublishError, pauses: list[float]
) -> None:
    bench = Bench(app_reply=[error] * 9)
    assert await bench.settle(Completed(REPLY)) == ["app.reply"] * 3 + ["undeliverable", "ack"]
    assert pauses == sorted(pauses)
    assert len(pauses) == 2


async def test_reply_that_is_taken_at_the_third_try_is_sent() -> None:
    bench = Bench(app_reply=[NackedError("full"), UnconfirmedError("late")])
    assert await bench.settle(Completed(REPLY)) == ["app.reply"] * 3 + ["sent", "ack"]


@pytest.mark.parametrize(
    "error", [UnroutableError("gone"), UnsendableError("403")], ids=["unroutable", "refused"]
)
async def test_reply_that_can_never_be_taken_is_undeliverable_at_once(error: PublishError) -> None:
    bench = Bench(app_reply=[error])
    assert await bench.settle(Completed(REPLY)) == ["app.reply", "undeliverable", "ack"]


async def test_undeliverable_reply_does_not_keep_the_request_from_the_parking_lot() -> None:
    bench = Bench(app_reply=[UnroutableError("gone")])
    steps = await bench.settle(Failed(REPLY, LETTER))
    assert steps == ["app.reply", "undeliverable", "session.create.dead", "parked", "ack"]


async def test_undeliverable_refusal_is_noted_nowhere() -> None:
    """Nothing was claimed: the entry under this id, if there is one, is another request's."""
    bench = Bench(app_reply=[UnroutableError("gone")])
    assert await bench.settle(Refused(REFUSAL, REFUSED)) == ["app.reply", "session.create.dead", "ack"]


# ------------------------------------------------------------------------------------------- copies

HOSTILE = {
    "correlation_id": "call-7",
    "reply_to": "app.reply",
    "message_id": "m",
    "content_type": "application/json",
    "content_encoding": "identity",
    "type": "CreateSessionRequest",
    "expiration": "5",
    "headers": {
        "traceparent": "00-1",
        "tracestate": "a=b",
        "x-death": [{"reason": "expired"}],
        "x-delivery-count": 9,
        "CC": ["victim"],
        "BCC": ["victim"],
        "x-request-id": "forged",
        "x-requeue-count": 99,
        "anything": 1,
    },
}


@pytest.mark.parametrize(
    ("outcome", "ours"),
    [
        (RetryLater(REQUEST_ID, 5, 1), {"x-request-id": str(REQUEST_ID)}),
        (Busy(REQUEST_ID, 5, 3), {"x-request-id": str(REQUEST_ID), "x-requeue-count": 3}),
        (Busy(None, 5, 0), {"x-request-id": str(NIL_ID), "x-requeue-count": 0}),
    ],
)
async def test_copy_takes_over_what_is_listed_and_nothing_else(
    outcome: Outcome, ours: dict[str, Any]
) -> None:
    """An ``expiration`` would end its wait, CC would send it on, a foreign ``x-death`` would lose it."""
    bench = Bench()
    await bench.settle(outcome, b"body", **HOSTILE)
    (message,) = bench.messages
    properties = message.properties
    assert (message.queue, message.body, message.mandatory) == ("session.create.retry.5s", b"body", True)
    assert (properties.correlation_id, properties.reply_to) == ("call-7", "app.reply")
    assert (properties.content_type, properties.type) == ("application/json", "CreateSessionRequest")
    assert properties.persistent
    assert properties.headers == {"traceparent": "00-1", "tracestate": "a=b"} | ours
    others = ("expiration", "content_encoding", "message_id")
    assert [getattr(properties, name) for name in others] == [None] * len(others)


async def test_refused_request_without_an_id_stays_one_when_its_copy_comes_back() -> None:
    """The parking lot is full, the copy goes round: were its ``message_id`` taken for the id that it lacks, a
    session would be created that its requester was told does not exist."""
    bench = Bench(session_create_dead=[NackedError("full")])
    letter = Letter(ErrorCode.MISSING_REQUEST_ID, "request_id: is required")
    await bench.settle(Refused(REFUSAL, letter), parts.body(), correlation_id="call-7")
    refusal = _comes_back(bench.messages[-1])
    assert isinstance(refusal, Refusal)
    assert refusal.code is ErrorCode.MISSING_REQUEST_ID


def _comes_back(copy: Message) -> Request | Refusal:
    """What the parser makes of a copy that the broker delivers, with the id that every publish gets."""
    properties = copy.properties
    again = parts.delivery(
        copy.body,
        headers=properties.headers,
        correlation_id=properties.correlation_id,
        message_id=str(uuid4()),
    )
    return parts.parser().parse(again)


@pytest.mark.parametrize("trace", [7, None, b"x", ["00-1"], "x" * 513, "é"], ids=repr)
async def test_trace_header_that_is_no_short_text_is_dropped(trace: object) -> None:
    bench = Bench()
    await bench.settle(RetryLater(REQUEST_ID, 5, 1), headers={"traceparent": trace, "tracestate": "a=b"})
    assert bench.messages[0].properties.headers == {"tracestate": "a=b", "x-request-id": str(REQUEST_ID)}


async def test_copy_is_tried_until_it_is_taken_and_the_worker_is_not_ready_meanwhile(
    pauses: list[float],
) -> None:
    errors = [
        NackedError("full"),
        UnroutableError("deleted"),
        UnconfirmedError("late"),
        UnsendableError("403"),
    ] * 3
    bench = Bench(session_create_retry_5s=cast("list[Exception]", errors))
    seen: list[int] = []
    bench.on_publish = lambda: seen.append(bench.settler.stuck)
    assert await bench.settle(RetryLater(REQUEST_ID, 5, 1)) == ["session.create.retry.5s"] * 13 + ["ack"]
    assert seen == [0] + [1] * 12
    assert bench.settler.stuck == 0
    assert pauses == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, *[5.0] * 6]


# ------------------------------------------------------------------------------------------- parking


async def test_parked_copy_holds_the_body_and_explains_itself() -> None:
    bench = Bench()
    await bench.settle(Failed(REPLY, LETTER), b"x" * (CUT_BYTES + 1))
    parked = bench.messages[1]
    assert parked.body == b"x" * (CUT_BYTES + 1)
    headers = cast("dict[str, Any]", parked.properties.headers)
    assert headers.pop(amqp.FAILED_AT).endswith("+00:00")
    assert headers == {
        "x-request-id": str(REQUEST_ID),
        "x-error-code": "handler_failed",
        "x-exception-type": "ValueError",
        "x-exception-message": "ValueError: x",
        "x-exception-stacktrace": "Traceback",
        "x-original-queue": "session.create",
        "x-attempts": 6,
        "x-first-seen-at": "2026-01-02T03:04:05.000+00:00",
        "x-worker-id": "worker-7",
    }


@pytest.mark.parametrize(
    ("excess", "trace", "message"),
    [
        (10, "é" * 2000 + "end", "short é"),
        (7_000, "end", "short é"),
        (7_494, "", "short"),
        (1_000_000, "", ""),
    ],
)
async def test_dead_letter_too_long_for_a_frame_loses_the_trace_before_the_message(
    excess: int, trace: str, message: str
) -> None:
    """First the beginning of the stack trace, then the end of the message."""
    bench = Bench(session_create_dead=[TooLongError("too long", excess)])
    letter = dataclasses.replace(LETTER, stacktrace="é" * 4000 + "end", message="short é")
    steps = await bench.settle(Failed(REPLY, letter))
    assert steps == ["app.reply", "sent", "session.create.dead", "session.create.dead", "parked", "ack"]
    whole, shorter = (cast("dict[str, Any]", each.properties.headers) for each in bench.messages[1:])
    saved = sum(
        len(whole[name].encode()) - len(shorter[name].encode())
        for name in ("x-exception-stacktrace", "x-exception-message")
    )
    everything = sum(len(whole[name].encode()) for name in ("x-exception-stacktrace", "x-exception-message"))
    assert min(excess, everything) <= saved <= excess + SPARE_BYTES + 2
    assert shorter["x-exception-stacktrace"].endswith(trace)
    assert shorter["x-exception-message"] == message


@pytest.mark.parametrize(("size", "cut"), [(CUT_BYTES, False), (CUT_BYTES + 1, True)])
async def test_large_body_of_a_refused_request_is_cut_and_named_by_its_digest(size: int, cut: bool) -> None:
    """Garbage must not fill the parking lot."""
    bench = Bench()
    content = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    await bench.settle(Refused(None, REFUSED), content)
    (parked,) = bench.messages
    headers = cast("dict[str, Any]", parked.properties.headers)
    assert parked.body == content[:CUT_BYTES]
    assert headers.get("x-body-sha256") == (hashlib.sha256(content).hexdigest() if cut else None)
    assert headers.get("x-body-bytes") == (size if cut else None)
    assert "x-request-id" not in headers, "the nil UUID is no id"


async def test_full_parking_lot_sends_the_whole_copy_round_by_the_slowest_queue() -> None:
    """It is acknowledged and not noted as parked: it comes back as a duplicate and is parked then."""
    bench = Bench(session_create_dead=[NackedError("full")])
    steps = await bench.settle(Failed(REPLY, LETTER), b"x" * 5000)
    assert steps == ["app.reply", "sent", "session.create.dead", "session.create.retry.600s", "ack"]
    round_trip = bench.messages[-1]
    assert round_trip.body == b"x" * 5000
    assert round_trip.properties.headers == {"x-request-id": str(REQUEST_ID)}


@pytest.mark.parametrize("fields", [{"illegible": "reply_to"}, {"content_encoding": "gzip"}], ids=repr)
async def test_what_was_unreadable_is_not_carried_out_when_its_copy_comes_back(
    fields: dict[str, Any],
) -> None:
    """The parking lot is full, the copy goes round without the properties that were wrong. Its requester was
    told that it was refused: it stays so."""
    bench = Bench(session_create_dead=[NackedError("full")])
    letter = Letter(ErrorCode.UNREADABLE, "the properties cannot be decoded", REQUEST_ID)
    await bench.settle(Refused(REFUSAL, letter), parts.body(), **fields)
    refusal = _comes_back(bench.messages[-1])
    assert isinstance(refusal, Refusal)
    assert (refusal.code, refusal.request_id) == (ErrorCode.UNREADABLE, REQUEST_ID)


@pytest.mark.parametrize("code", ErrorCode)
async def test_what_was_refused_stays_refused_when_its_copy_comes_back(code: ErrorCode) -> None:
    """Whatever has changed meanwhile: settings, the ledger, or the lane by which it comes."""
    bench = Bench(session_create_dead=[NackedError("full")])
    await bench.settle(Refused(REFUSAL, Letter(code, "no", REQUEST_ID)), parts.body(REQUEST_ID))
    refusal = _comes_back(bench.messages[-1])
    assert isinstance(refusal, Refusal)
    assert (refusal.code, refusal.request_id) == (code, REQUEST_ID)


async def test_hostile_message_of_an_exception_fits_into_a_header() -> None:
    bench = Bench()
    await bench.settle(Refused(None, Letter(ErrorCode.INTERNAL_ERROR, "\0\ud800" * 5000)))
    headers = cast("dict[str, Any]", bench.messages[0].properties.headers)
    assert len(headers["x-exception-message"].encode()) <= 4000


# ------------------------------------------------------------------------------------------- events


@pytest.mark.parametrize(
    ("outcome", "told"),
    [
        (
            Completed(dataclasses.replace(REPLY, attempt=2, published=PUBLISHED)),
            [ReplyConfirmed(REQUEST_ID, 2, 5.0, operation="create_session")],
        ),
        (
            Failed(dataclasses.replace(REPLY, attempt=6, published=PUBLISHED), LETTER),
            [
                ReplyConfirmed(REQUEST_ID, 6, 5.0, operation="create_session"),
                RequestParked(REQUEST_ID, 6, LETTER.code, LETTER.message, operation="create_session"),
            ],
        ),
        (
            Replayed(REPLY, None, ErrorCode.REJECTED),
            [
                ReplyConfirmed(REQUEST_ID, 0, None, operation="create_session"),
                RequestFinished(REQUEST_ID, 0, "replayed", ErrorCode.REJECTED, operation="create_session"),
            ],
        ),
        (
            Refused(REFUSAL, REFUSED),
            [
                ReplyConfirmed(None, 0, None, operation="create_session"),
                RequestParked(None, 0, REFUSED.code, REFUSED.message, operation="create_session"),
                RequestFinished(
                    None, 0, "refused", REFUSED.code, REFUSED.message, operation="create_session"
                ),
            ],
        ),
        (RetryLater(REQUEST_ID, 5, 1), []),
    ],
    ids=["completed", "failed", "replayed", "refused", "retry"],
)
async def test_each_settlement_emits_its_events(
    outcome: Outcome, told: list[Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "time", lambda: PUBLISHED + 5.0)
    bench = Bench()
    await bench.settle(outcome)
    assert bench.events == told


async def test_a_refusal_is_told_once_however_long_the_parking_lot_is_full() -> None:
    """Its copy goes round meanwhile, and is answered each time it comes."""
    bench = Bench(session_create_dead=[NackedError("full"), NackedError("full")])
    for _ in range(3):
        await bench.settle(Refused(REFUSAL, dataclasses.replace(REFUSED, request_id=REQUEST_ID)))
    kinds = [type(event).__name__ for event in bench.events]
    assert kinds.count("RequestNotParked") == 2
    assert kinds.count("RequestFinished") == kinds.count("RequestParked") == 1
    assert {getattr(event, "request_id", None) for event in bench.events} == {REQUEST_ID}


async def test_trouble_with_the_broker_is_told_with_the_request_that_it_concerns() -> None:
    gone = [UnroutableError("312 NO_ROUTE")]
    bench = Bench(app_reply=list(gone), session_create_retry_5s=[*gone, *gone, LinkLostError("reset")])
    await bench.settle(Completed(dataclasses.replace(REPLY, attempt=1)))
    await bench.settle(RetryLater(REQUEST_ID, 5, 2))
    assert bench.events == [
        ReplyUndeliverable(REQUEST_ID, 1, "app.reply", "312 NO_ROUTE", operation="create_session"),
        CopyNotTaken(REQUEST_ID, 2, "session.create.retry.5s", "312 NO_ROUTE", operation="create_session"),
        DeliveryLeft(REQUEST_ID, 2, "RetryLater", "reset", operation="create_session"),
    ]
