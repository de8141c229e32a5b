"""What arrived: one message, read but not yet understood."""

from __future__ import annotations

from codecs import BOM_UTF8
from dataclasses import field
from enum import Enum
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

from session_contracts.amqp import REDRIVE_COUNT, REQUEUE_COUNT
from session_worker.messages.headers import DEATH, DELIVERY_COUNT
from session_worker.messages.immutable import immutable

if TYPE_CHECKING:
    from collections.abc import Mapping

SLOW_LANE_LIMIT = 5
MAX_LOSSES = 3
"""After so many deliveries in the slow lane that nobody settled, the message itself is suspected and not read
again. The lane's limit leaves as many deliveries for its answer."""


class Lane(Enum):
    """How a delivery came: with the work, or through the slow lane of what the broker had given up on."""

    WORK = "work"
    SLOW = "slow"


class Receipt(Protocol):
    """Settles a delivery at the broker. Only ``settle.py`` calls it."""

    @property
    def valid(self) -> bool:
        """False once the channel it came through is gone: then the broker delivers it again by itself."""

    def ack(self) -> None: ...

    def requeue(self) -> None: ...


CUT_BYTES = 4096
"""Bytes that are kept of a body that is too large to be read, or refused."""


@immutable
class Cut:
    """A body of which only ``CUT_BYTES`` were kept: its size in bytes, and its SHA-256 in hexadecimal."""

    size: int
    sha256: str


NO_HEADERS: Mapping[str, Any] = MappingProxyType({})


def newest_death(headers: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the newest entry of ``x-death``, or an empty one. A requester may have made up the header."""
    deaths = headers.get(DEATH)
    newest = deaths[0] if isinstance(deaths, list) and deaths else None
    return newest if isinstance(newest, dict) else NO_HEADERS


@immutable
class Delivery:
    """One message as the broker handed it over.

    ``illegible`` names a property that is needed, could not be decoded and is missing here. ``cut`` is there
    when the body was too large to be kept. ``expired`` says that the broker saw its ``expiration`` pass.
    """

    body: bytes
    receipt: Receipt
    lane: Lane = Lane.WORK
    queue: str = ""
    tag: int = 0
    redelivered: bool = False
    illegible: str = ""
    cut: Cut | None = None
    expired: bool = False
    correlation_id: str | None = None
    reply_to: str | None = None
    message_id: str | None = None
    content_type: str | None = None
    content_encoding: str | None = None
    type: str | None = None
    expiration: str | None = None
    timestamp: int | None = None
    headers: Mapping[str, Any] = field(default_factory=lambda: NO_HEADERS)

    @property
    def document(self) -> bytes:
        """The body as JSON has it: without the byte order mark that some programs put before it."""
        return self.body.removeprefix(BOM_UTF8)

    @property
    def lost_too_often(self) -> bool:
        """Whether it was lost ``MAX_LOSSES`` times in the slow lane, where it was alone.

        The first delivery there may still show the work queue's count (RabbitMQ 4): after the delivery limit
        that is above this lane's own. After an expiry it may be any, so a message that expired never counts.
        """
        count = self.headers.get(DELIVERY_COUNT)
        lost = isinstance(count, int) and MAX_LOSSES <= count <= SLOW_LANE_LIMIT
        return lost and self.redelivered and self.lane is Lane.SLOW and not self.expired

    @property
    def lost_before(self) -> bool:
        """Whether it was delivered at least twice before, and nobody settled it."""
        count = self.headers.get(DELIVERY_COUNT)
        return self.lane is Lane.SLOW or (self.redelivered and isinstance(count, int) and count >= 2)

    @property
    def requeues(self) -> int:
        """How often it went round because others had its request, by our own header; a forged one does no
        harm."""
        return _count(self.headers.get(REQUEUE_COUNT), 1000)

    @property
    def redrives(self) -> int:
        """How often an operator redrove it, by our own header."""
        return _count(self.headers.get(REDRIVE_COUNT), 1_000_000)


def _count(value: object, limit: int) -> int:
    """Return what a header counts. A requester may write anything there."""
    return min(int(value), limit) if isinstance(value, int) and value > 0 else 0
