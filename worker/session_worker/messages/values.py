"""Values that every request makes, and that nobody changes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeVar, dataclass_transform

T = TypeVar("T")


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def value(cls: type[T]) -> type[T]:
    """A dataclass with slots, frozen for the type checker alone: setting the fields of a frozen one takes
    three times as long, and a request makes a hundred of them."""
    return dataclass(slots=True)(cls)
