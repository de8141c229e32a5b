"""Dead letters counted by the way in which their requests failed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datetime import datetime
    from uuid import UUID

    from session_worker.operators.dead_letters.letter import DeadLetter, Filter
    from session_worker.operators.dead_letters.parking_lot import ParkingLot


@dataclass(frozen=True, slots=True)
class Group:
    """Letters of one operation that failed in the same way.

    The newest one gives ``message`` and ``example``, which is an id that ``Filter.letter`` takes.
    """

    operation: str
    code: str | None
    exception_type: str | None
    count: int
    first: datetime | None
    last: datetime | None
    example: UUID | None
    message: str

    def with_letter(self, letter: DeadLetter) -> Group:
        moments = [moment for moment in (self.first, self.last, letter.failed_at) if moment is not None]
        newest = self.last is None or (letter.failed_at is not None and letter.failed_at >= self.last)
        return Group(
            operation=self.operation,
            code=letter.code,
            exception_type=letter.exception_type,
            count=self.count + 1,
            first=min(moments, default=None),
            last=max(moments, default=None),
            example=letter.request_id or letter.letter_id if newest else self.example,
            message=letter.message if newest else self.message,
        )

    def document(self) -> dict[str, Any]:
        """The group as a JSON document, whose field names are part of the interface."""
        return {
            "operation": self.operation,
            "error_code": self.code,
            "exception_type": self.exception_type,
            "count": self.count,
            "first": self.first and self.first.isoformat(),
            "last": self.last and self.last.isoformat(),
            "example": self.example and str(self.example),
            "message": self.message,
        }


async def groups(parking_lot: ParkingLot, wanted: Filter) -> list[Group]:
    """Group the letters by operation, error code and exception type, the largest group first."""
    found: dict[tuple[str, str | None, str | None], Group] = {}
    async for page in parking_lot.matching(wanted):
        for letter in page:
            key = (letter.operation.name, letter.code, letter.exception_type)
            group = found.get(key) or Group(*key, count=0, first=None, last=None, example=None, message="")
            found[key] = group.with_letter(letter)
    return sorted(found.values(), key=lambda group: -group.count)
