"""Operations of users: any model that JSON can hold will do; what is wrong with one is said by field."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal
from uuid import uuid4

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from session_contracts import Operation
from session_contracts.amqp import Names
from session_contracts.errors import problems
from session_contracts.sessions import BUILT_IN


class Card(BaseModel):
    kind: Literal["card"]
    number: str


class Cash(BaseModel):
    kind: Literal["cash"]
    coins: int


class Order(BaseModel):
    """What pydantic offers and users take: aliases, unions, sets, times, bounds of every type, defaults that
    are made anew each time, validators that do not foresee everything."""

    item: str = Field(alias="itemId", min_length=2, max_length=5, pattern="^[a-z]+$")
    paid: Annotated[Card | Cash, Field(discriminator="kind")] = Cash(kind="cash", coins=1)
    tags: set[str] = Field(default=set(), max_length=3)
    at: datetime = Field(default_factory=lambda: datetime.now(UTC))
    wait: timedelta = Field(default=timedelta(seconds=1), gt=timedelta(0))
    day: date = Field(default=date(2025, 1, 1), ge=date(2025, 1, 1))
    price: Decimal = Field(default=Decimal(1), gt=Decimal(0), le=Decimal("99.5"))
    count: int = Field(default=1, ge=1, le=10_000)
    share: float = Field(default=0.5, lt=1)
    rest: dict[str, Any] = {}

    @field_validator("item")
    @classmethod
    def _look_up(cls, value: str) -> str:
        return {"none": ""}[value] if value.startswith("n") else value


class Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    count: int
    due: datetime | None = None


class Done(BaseModel):
    ok: bool


ORDER, STRICT = Operation("order_it", Order, Done), Operation("strict", Strict, Done)


def body(operation: Operation[Any, Any], payload: Any) -> bytes:
    return json.dumps(
        {"request_id": str(uuid4()), "user_id": "ada", "operation": operation.name, "payload": payload}
    ).encode()


def refusal(operation: Operation[Any, Any], sent: bytes) -> str:
    with pytest.raises(ValidationError) as refused:
        operation.read(sent)
    return problems(refused.value)


@pytest.mark.parametrize(
    ("payload", "told"),
    [
        ({}, "itemId: is required"),
        ({"item": "tea"}, "itemId: is required"),
        ({"itemId": "t"}, "itemId: must have at least 2 characters"),
        ({"itemId": "teapot"}, "itemId: must have at most 5 characters"),
        ({"itemId": "TEA"}, "itemId: must match the published pattern"),
        ({"itemId": "tea", "paid": {}}, "paid: must say which it is in 'kind'"),
        ({"itemId": "tea", "paid": {"kind": "s3cret"}}, "paid: must have one of 'card', 'cash' in 'kind'"),
        (
            {"itemId": "tea", "paid": {"kind": "cash", "coins": "s3"}},
            "paid.cash.coins: must be a whole number",
        ),
        ({"itemId": "tea", "tags": ["a", "b", "c", "d"]}, "tags: must have at most 3 items"),
        ({"itemId": "tea", "tags": ["\0"]}, "tags.0: must not hold a NUL character"),
        ({"itemId": "tea", "at": "s3cret"}, "at: must be an ISO 8601 date and time"),
        ({"itemId": "tea", "wait": -1}, "wait: must be more than 0"),
        ({"itemId": "tea", "day": "2024-12-31"}, "day: must be at least 2025-01-01"),
        ({"itemId": "tea", "day": "s3cret"}, "day: must be a date, as in 2025-10-13"),
        ({"itemId": "tea", "price": "100"}, "price: must be at most 99.5"),
        ({"itemId": "tea", "price": "s3cret"}, "price: must be a number"),
        ({"itemId": "tea", "count": 10_001}, "count: must be at most 10,000"),
        ({"itemId": "tea", "share": 1.5}, "share: must be less than 1"),
        ({"itemId": "tea", "rest": {"a": [2**64]}}, "rest.a.0: must not hold a whole number beyond 64 bits"),
        ({"itemId": "tea", "rest": {"a\0": 1}}, "rest: must not hold a NUL character"),
    ],
)
def test_a_wrong_payload_is_refused_by_field_and_rule_without_its_value(
    payload: dict[str, Any], told: str
) -> None:
    said = refusal(ORDER, body(ORDER, payload))
    assert said.removeprefix("payload.").startswith(told)
    assert "s3" not in said


def test_a_validator_that_breaks_refuses_the_payload_and_nothing_else() -> None:
    assert refusal(ORDER, body(ORDER, {"itemId": "nope"})) == "payload: its model cannot check it (KeyError)"


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999"])
def test_numbers_that_are_none_are_refused_where_the_model_would_take_them(number: str) -> None:
    sent = body(ORDER, {"itemId": "tea", "rest": {"a": 17}}).replace(b"17", number.encode())
    assert refusal(ORDER, sent).startswith(("body: must be JSON", "payload.rest.a: must not hold NaN"))


def test_a_strict_model_takes_what_json_has_and_no_field_that_it_does_not_know() -> None:
    request, _ = STRICT.read(body(STRICT, {"count": 1, "due": "2025-10-13T14:30:00Z"}))
    assert request.payload.due == datetime(2025, 10, 13, 14, 30, tzinfo=UTC)
    said = refusal(STRICT, body(STRICT, {"count": "1", "cuont": 1}))
    assert said == "payload.count: must be a whole number; payload.cuont: is not a field that is known here"


def test_what_a_model_adds_or_reorders_leaves_the_fingerprint_as_it_is() -> None:
    """Else a request that is sent again would be another one: its time is filled in anew."""
    sent = {"itemId": "tea", "tags": ["a", "b", "c"], "count": None}
    first, again = (
        ORDER.read(body(ORDER, payload)) for payload in ({**sent, "count": 1}, {**sent, "count": 1})
    )
    assert first.request.payload.at != again.request.payload.at
    assert first.fingerprint == again.fingerprint
    other = ORDER.read(body(ORDER, {**sent, "count": 2}))
    assert other.fingerprint != first.fingerprint


def test_the_session_that_a_request_names_is_part_of_what_it_asks() -> None:
    """Else the answer for one session would be given for another; a session that is null is none."""
    sent = json.loads(body(ORDER, {"itemId": "tea"}))
    none, null, one, other = (
        ORDER.read(json.dumps(sent | named).encode()).fingerprint
        for named in ({}, {"session_id": None}, {"session_id": "ts_251013_a"}, {"session_id": "ts_251013_b"})
    )
    assert none == null
    assert len({none, one, other}) == 3


def test_of_two_values_under_one_key_the_one_that_was_checked_is_taken() -> None:
    sent = body(ORDER, {"itemId": "tea", "count": 1}).replace(b'"count": 1', b'"count": 1, "count": 2')
    assert ORDER.read(sent).request.payload.count == 2
    assert refusal(ORDER, sent.replace(b'"count": 2', b'"count": 0')) == "payload.count: must be at least 1"


@pytest.mark.parametrize(
    "name",
    [
        *(
            "",
            "Extend",
            "_extend",
            "extend_",
            "ex__tend",
            "1extend",
            "ex-tend",
            "ex.tend",
            "éxtend",
            "x\n",
            "x" * 65,
        ),
        *("create", "get", "list", "close", "dead", "ledger", "retry", "undelivered"),
        *("create_session", "get_session", "list_sessions", "close_session"),
        *("replies", "replies_all", "repliesx"),
    ],
)
def test_a_name_that_could_be_taken_for_another_thing_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"^operation "):
        Operation(name, Order, Done)


def test_every_queue_of_every_operation_is_ours_and_its_types_are_its_own() -> None:
    """No requester can have its replies sent into a work queue, whatever users call their operations."""
    names = ["a", "ab", "a_b", "a1b", "a1_b", "a_1b", "reply", "reply_all", "response", "callback", "x" * 64]
    own: list[Operation[Any, Any]] = [Operation(name, Order, Done) for name in names]
    assert all(Names("acme", each.key).is_ours(Names("acme", each.key).work) for each in own)
    assert len({each.request_type for each in [*own, *BUILT_IN]}) == len(names) + len(BUILT_IN)
