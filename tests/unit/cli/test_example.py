"""The example of a payload that `dev` shows."""

from datetime import date, datetime
from decimal import Decimal
from enum import Enum
from typing import Annotated, Literal
from uuid import UUID

import pytest
from pydantic import BaseModel, Field

from session_contracts import CLOSE_SESSION, CREATE_SESSION, GET_SESSION, LIST_SESSIONS
from session_worker.cli.example import example


class Colour(Enum):
    RED = "red"


class Part(BaseModel):
    weight: float
    spare: bool


class Order(BaseModel):
    item: str = Field(examples=["tea"])
    note: str | None = None
    quantity: int = Field(ge=7)
    limit: int | None
    day: date
    at: datetime
    id: UUID
    price: Decimal
    colour: Colour
    kind: Literal["new"]
    parts: Annotated[list[Part], Field(min_length=2)]
    others: list[Part]
    labels: dict[str, int]


@pytest.mark.parametrize(
    "model", [Order, *(each.payload for each in (CREATE_SESSION, GET_SESSION, LIST_SESSIONS, CLOSE_SESSION))]
)
def test_an_example_fits_its_model_and_has_only_what_must_be_given(model: type[BaseModel]) -> None:
    found = example(model)

    model.model_validate(found)
    assert set(found) == {name for name, field in model.model_fields.items() if field.is_required()}


def test_examples_of_the_model_come_first() -> None:
    assert example(Order)["item"] == "tea"


def test_a_rule_that_no_schema_tells_of_may_be_broken() -> None:
    class Coded(BaseModel):
        code: str = Field(pattern="^x-[0-9]+$")

    assert example(Coded) == {"code": "text"}
