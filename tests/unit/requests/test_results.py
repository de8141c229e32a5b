"""Results of users' operations: what a requester could not read is not sent; the author is told the field."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import BaseModel, Field, field_serializer

from session_contracts import Operation
from session_worker.operations.binding import Binding
from session_worker.requests.results import InvalidResultError, read_result


class Ask(BaseModel):
    """Nothing is asked."""


class Told(BaseModel):
    text: str = "t"
    share: float = 0.5
    at: datetime = datetime(2025, 10, 13, tzinfo=UTC)
    any: Any = None
    price: int = Field(default=1, alias="priceInCents")

    @field_serializer("price")
    def _in_cents(self, value: int) -> int:
        return value * 100


class Inside(Told):
    password_hash: str = "s3cret"


async def tell(request: object, context: object) -> Told:
    return Told()


BINDING = Binding(Operation("tell", Ask, Told), tell)


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize("kind", [Told, Inside])
def test_a_result_is_written_as_its_model_does_and_no_field_of_another_one(kind: type[Told]) -> None:
    """By its aliases, once; what a class made from it has beside that is nobody's business."""
    assert read_result(BINDING, kind()).payload == {
        "text": "t",
        "share": 0.5,
        "at": "2025-10-13T00:00:00Z",
        "any": None,
        "priceInCents": 100,
    }


@pytest.mark.parametrize(
    ("result", "told"),
    [
        (None, "must return Told, not NoneType"),
        ({"text": "t"}, "must return Told, not dict"),
        (Told, "must return Told, not ModelMetaclass"),
        (Told(share=float("nan")), "share: must not hold NaN or an infinite number"),
        (Told(share=float("-inf")), "share: must not hold NaN or an infinite number"),
        (Told(text="a\0b"), "text: must not hold a NUL character"),
        (Told.model_construct(text="\ud800"), "text: must not hold half a surrogate pair"),
        (Told().model_copy(update={"text": 5}), "text: must be a string"),
        (Told(any=[2**64]), "any.0: must not hold a whole number beyond 64 bits"),
        (Told(any=nested(16)), "any: must not be nested more than 16 deep"),
        (Told(any=nested(5000)), "cannot be written as JSON"),
        (Told(any=object()), "cannot be written as JSON"),
        (Told(any=b"\xff"), "cannot be written as JSON"),
        (Told(any=["x" * 10_000] * 7), "takes 70"),
    ],
)
def test_what_does_not_fit_into_an_answer_is_told_by_field(result: object, told: str) -> None:
    with pytest.raises(InvalidResultError) as refused:
        read_result(BINDING, result)
    assert told in str(refused.value)
