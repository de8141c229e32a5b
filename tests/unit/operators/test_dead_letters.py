"""Dead letters without a broker: what their headers say, and the order of a redrive."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from session_contracts import CREATE_SESSION, Operation, amqp
from session_worker.ledger.protocol import Reopened
from session_worker.messages.delivery import Delivery
from session_worker.messages.errors import NackedError
from session_worker.operators import dead_letters
from session_worker.operators.dead_letters import DeadLetter, Fate, Filter
from session_worker.operators.operations import operations
from session_worker.settings import Settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from session_worker.operators.dead_letters import ParkingLot

ID = uuid4()
BODY = json.dumps({"request_id": str(ID), "user_id": "ada@example.com", "payload": {}}).encode()
HEADERS = {
    amqp.REQUEST_ID: str(ID),
    amqp.ERROR_CODE: "handler_failed",
    amqp.ATTEMPTS: 6,
    amqp.FAILED_AT: "2026-11-22T10:00:00.000+00:00",
}


class Receipt:
    valid = True

    def __init__(self, steps: list[str]) -> None:
        self.steps = steps

    def ack(self) -> None:
        self.steps.append("dropped")

    def requeue(self) -> None:
        raise AssertionError("the lot gives back by itself")


def letter(
    headers: dict[str, Any] = HEADERS,
    body: bytes = BODY,
    operation: Operation[Any, Any] = CREATE_SESSION,
    **properties: Any,
) -> DeadLetter:
    return DeadLetter.of(operation, Delivery(body, Receipt([]), headers=headers, **properties))


class Redriving:
    """A redrive of one letter; ``steps`` tells what was done, in order."""

    def __init__(self, answer: Reopened = Reopened.REOPENED, failure: Exception | None = None) -> None:
        self.steps: list[str] = []
        self._answer = answer
        self._failure = failure

    async def reopen(self, request_id: UUID, fingerprint: bytes) -> Reopened:
        assert (request_id, len(fingerprint)) == (ID, 32)
        self.fingerprint = fingerprint
        await asyncio.sleep(0)
        self.steps.append("re-opened")
        return self._answer

    async def check(self, parking_lot: ParkingLot) -> None:
        assert parking_lot is self  # type: ignore[comparison-overlap]

    async def send(self, letter: DeadLetter) -> None:
        await asyncio.sleep(0)
        if self._failure:
            raise self._failure
        self.steps.append("confirmed")

    def drop(self, letter: DeadLetter) -> None:
        self.steps.append("dropped")

    async def matching(self, wanted: Filter, limit: int | None) -> AsyncIterator[list[DeadLetter]]:
        assert (wanted, limit) == (Filter(), None)
        yield [self.letter]

    async def run(self, letter: DeadLetter, *, unknown: bool = False) -> list[Fate]:
        self.letter = letter
        redriving: Any = dead_letters.redrive(
            *(self, Filter(), None),  # type: ignore[arg-type]
            ledger=self,  # type: ignore[arg-type]
            sender=self,  # type: ignore[arg-type]
            unknown=unknown,
        )
        return [fate async for fate in redriving]


async def test_a_letter_is_dropped_after_its_copy_is_confirmed_and_that_is_sent_after_the_commit() -> None:
    redriving = Redriving()
    assert await redriving.run(letter()) == [Fate.REOPENED]
    assert redriving.steps == ["re-opened", "confirmed", "dropped"]


async def test_a_letter_whose_copy_is_not_confirmed_is_kept() -> None:
    """The entry is open by then; the next redrive goes on."""
    redriving = Redriving(failure=NackedError("full"))
    with pytest.raises(NackedError):
        await redriving.run(letter())
    assert redriving.steps == ["re-opened"]


@pytest.mark.parametrize(
    ("answer", "fate", "steps"),
    [
        (Reopened.OPEN, Fate.RESENT, ["re-opened", "confirmed", "dropped"]),
        (Reopened.FINISHED, Fate.RESENT, ["re-opened", "confirmed", "dropped"]),
        (Reopened.UNKNOWN, Fate.UNKNOWN, ["re-opened"]),
        (Reopened.MISMATCH, Fate.CONFLICT, ["re-opened"]),
    ],
)
async def test_what_is_open_or_answered_is_sent_again_and_what_is_foreign_stays(
    answer: Reopened, fate: Fate, steps: list[str]
) -> None:
    redriving = Redriving(answer)
    assert await redriving.run(letter()) == [fate]
    assert redriving.steps == steps


async def test_what_the_ledger_does_not_know_is_sent_as_new_when_the_operator_says_so() -> None:
    redriving = Redriving(Reopened.UNKNOWN)
    assert await redriving.run(letter(), unknown=True) == [Fate.RESENT]
    assert redriving.steps == ["re-opened", "confirmed", "dropped"]


async def test_the_ledger_is_not_asked_for_what_was_refused() -> None:
    redriving = Redriving()
    refused = letter({**HEADERS, amqp.ATTEMPTS: 0, amqp.ERROR_CODE: "idempotency_conflict"})
    assert await redriving.run(refused) == [Fate.RESENT]
    assert redriving.steps == ["confirmed", "dropped"]


async def test_a_letter_of_a_request_that_was_claimed_is_re_opened_though_no_attempt_counts() -> None:
    """Its worker died, the next one handed it back, and then its time was over."""
    redriving = Redriving(Reopened.REOPENED)
    claimed = letter({**HEADERS, amqp.ATTEMPTS: 0, amqp.FIRST_SEEN_AT: "2026-01-02T03:04:05+00:00"})
    assert await redriving.run(claimed) == [Fate.REOPENED]


class Minutes(BaseModel):
    minutes: int
    until: str = "now"


async def test_a_request_is_re_opened_without_the_models_of_its_operation() -> None:
    """Its fingerprint is the same with them and without: an operator has no code of the app at hand."""
    body = json.dumps(
        {"request_id": str(ID), "user_id": "ada@example.com", "payload": {"minutes": 5}}
    ).encode()
    known = Operation("extend_session", Minutes, Minutes)
    (stranger,) = operations(Settings(), "extend_session")
    redriving = Redriving()
    assert await redriving.run(letter(body=body, operation=stranger)) == [Fate.REOPENED]
    assert stranger.payload is not Minutes
    assert redriving.fingerprint == known.read(body).fingerprint


@pytest.mark.parametrize(
    ("given", "fate"),
    [
        (letter({**HEADERS, amqp.BODY_BYTES: 10_000}), Fate.CUT),
        (letter({}, illegible="reply_to"), Fate.ILLEGIBLE),
    ],
)
async def test_what_cannot_be_sent_is_left_alone(given: DeadLetter, fate: Fate) -> None:
    redriving = Redriving()
    assert await redriving.run(given) == [fate]
    assert redriving.steps == []


def test_the_id_of_a_copys_own_message_is_not_the_requests() -> None:
    """A refused message without an id has none on the parking lot either; it is found by the copy's."""
    own = uuid4()
    nobody = letter({amqp.ERROR_CODE: "missing_request_id"}, b"{}", message_id=str(own))
    assert (nobody.request_id, nobody.letter_id) == (None, own)
    assert Filter(letter=own).fits(nobody)


def test_a_letter_of_the_brokers_own_tells_why_it_is_there() -> None:
    death = {"reason": "delivery_limit", "queue": "session.create.undelivered", "time": datetime(2026, 1, 2)}  # noqa: DTZ001 -- as pamqp may give it
    given = letter({"x-death": [death]}, message_id=str(ID))
    assert (given.code, given.request_id, given.queue) == (None, ID, "session.create.undelivered")
    assert given.failed_at == datetime(2026, 1, 2, tzinfo=UTC)
    assert "delivery_limit" in given.message


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.binary() | st.datetimes(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)
names = st.sampled_from([value for name, value in vars(amqp).items() if str(value).startswith("x-")])


@given(headers=st.dictionaries(names | st.just("x-death"), anything), body=st.binary() | st.just(BODY))
def test_no_header_is_too_strange_to_be_read(headers: dict[str, Any], body: bytes) -> None:
    """Some letters were not made by us, and requesters write what they like."""
    strange = letter(headers, body)
    Filter(user="ada", since=datetime(2026, 1, 1, tzinfo=UTC)).fits(strange)
    assert strange.outlook in set(Fate)
