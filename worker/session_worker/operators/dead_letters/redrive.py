"""Groups of dead letters, their redrive, and their end."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from session_worker.ledger.protocol import Reopened
from session_worker.requests.parse import RequestParser
from session_worker.requests.request import Request

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from datetime import datetime
    from uuid import UUID

    from session_worker.ledger.protocol import Ledger
    from session_worker.operators.dead_letters.letter import DeadLetter, Wanted
    from session_worker.operators.dead_letters.parking_lot import ParkingLot, Sender


class Fate(StrEnum):
    """What a redrive does with a letter. All but the first two stay on the parking lot."""

    REOPENED = "reopened"
    """Its request has a new round: attempts count from 0."""
    RESENT = "resent"
    """It goes through the flow once more, with nothing to re-open: it was refused when it first came, or its
    request is open already, or has its answer."""
    CUT = "cut"
    """Only the beginning of the body was kept."""
    ILLEGIBLE = "illegible"
    """Nobody can decode its properties."""
    UNKNOWN = "unknown"
    """The ledger has no entry: it was pruned, or this is not the workers' ledger."""
    CONFLICT = "conflict"
    """Another request has the id by now."""

    @property
    def stays(self) -> bool:
        return self not in (Fate.REOPENED, Fate.RESENT)


@dataclass(frozen=True, slots=True)
class Group:
    """Letters that failed in the same way.

    ``message`` and ``example``, an id that ``Wanted.letter`` takes, are those of the newest.
    """

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
            code=letter.code,
            exception_type=letter.exception_type,
            count=self.count + 1,
            first=min(moments, default=None),
            last=max(moments, default=None),
            example=letter.request_id or letter.letter_id if newest else self.example,
            message=letter.message if newest else self.message,
        )


async def groups(lot: ParkingLot, wanted: Wanted, on_read: Callable[[int], None]) -> list[Group]:
    """The letters by error code and exception type, the largest group first. ``on_read`` hears how many
    letters were read, here and below."""
    found: dict[tuple[str | None, str | None], Group] = {}
    async for page in matching(lot, wanted, None, on_read):
        for letter in page:
            key = (letter.code, letter.exception_type)
            group = found.get(key) or Group(*key, count=0, first=None, last=None, example=None, message="")
            found[key] = group.with_letter(letter)
    return sorted(found.values(), key=lambda group: -group.count)


async def redrive(
    lot: ParkingLot,
    wanted: Wanted,
    limit: int | None,
    on_read: Callable[[int], None],
    *,
    ledger: Ledger,
    sender: Sender,
    unknown: bool = False,
) -> AsyncIterator[Fate]:
    """Send the oldest ``limit`` letters wanted through the flow again; yields what became of each.

    For each its entry is re-opened and that committed, then its copy published and confirmed, then it is
    dropped. Killed in between, it is still on the parking lot, and the next redrive goes on: of a copy that
    is there twice the second one finds its request waiting, running or finished. ``unknown``: also those that
    the ledger does not know, as new requests.

    Raises:
        PublishError, LinkLostError: the broker takes no more. What was not sent is still on the parking lot.
    """
    # Limits are the worker's business: here it is only to be found out which request it is.
    parser = RequestParser(sender.names, max_body_bytes=sys.maxsize, reply_to_allow="(?s:.*)")

    async def redrive_one(letter: DeadLetter) -> Fate:
        fate = outlook(letter)
        if fate is Fate.REOPENED:
            fate = await _reopen(letter, parser, ledger)
        if fate is Fate.UNKNOWN and unknown:
            fate = Fate.RESENT
        if not fate.stays:
            await sender.send(letter)
            lot.drop(letter)
        return fate

    async for page in matching(lot, wanted, limit, on_read):
        results = await asyncio.gather(*map(redrive_one, page), return_exceptions=True)
        for fate in results:
            if isinstance(fate, Fate):
                yield fate
        for error in results:
            if isinstance(error, BaseException):
                raise error


def outlook(letter: DeadLetter) -> Fate:
    """What a redrive will do with the letter, as far as can be said without the ledger."""
    if letter.delivery.illegible:
        return Fate.ILLEGIBLE
    if letter.cut:
        return Fate.CUT
    return Fate.RESENT if letter.refused else Fate.REOPENED


async def purge(lot: ParkingLot, wanted: Wanted, limit: int | None, on_read: Callable[[int], None]) -> int:
    """Drop the oldest ``limit`` letters wanted, for good; how many there were."""
    count = 0
    async for page in matching(lot, wanted, limit, on_read):
        for letter in page:
            lot.drop(letter)
        count += len(page)
    return count


async def matching(
    lot: ParkingLot, wanted: Wanted, limit: int | None, on_read: Callable[[int], None]
) -> AsyncIterator[list[DeadLetter]]:
    """The oldest ``limit`` letters wanted, page by page."""
    left = limit
    async for page in lot.pages():
        found = [letter for letter in page if wanted.fits(letter)][:left]
        if found:
            yield found
        on_read(len(page))
        if left is not None:
            left -= len(found)
            if left == 0:
                return


async def _reopen(letter: DeadLetter, parser: RequestParser, ledger: Ledger) -> Fate:
    request = parser.parse(letter.delivery)
    if not isinstance(request, Request):
        return Fate.RESENT
    match await ledger.reopen(request.request_id, request.fingerprint):
        case Reopened.REOPENED:
            return Fate.REOPENED
        case Reopened.OPEN | Reopened.FINISHED:
            return Fate.RESENT
        case Reopened.UNKNOWN:
            return Fate.UNKNOWN
        case Reopened.MISMATCH:
            return Fate.CONFLICT
