"""What arrived: one message, read but not yet understood."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping


class Lane(Enum):
    """How a delivery came: with the work, or through the slow lane of what the broker had given up on."""

    WORK = "work"
    SLOW = "slow"


class Receipt(Protocol):
    """What settles a delivery at the broker. Only ``settle.py`` calls it."""

    @property
    def valid(self) -> bool:
        """False once the channel it came through is gone: the broker delivers it again by itself."""

    def ack(self) -> None: ...

    def requeue(self) -> None: ...


NO_HEADERS: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Delivery:
    """One message as the broker handed it over.

    ``legible`` is False when its properties could not be decoded; they are then all missing.
    ``expired`` says that it is here because the broker saw its ``expiration`` pass.
    """

    body: bytes
    receipt: Receipt
    lane: Lane = Lane.WORK
    queue: str = ""
    redelivered: bool = False
    legible: bool = True
    expired: bool = False
    correlation_id: str | None = None
    reply_to: str | None = None
    message_id: str | None = None
    content_type: str | None = None
    content_encoding: str | None = None
    type: str | None = None
    expiration: str | None = None
    headers: Mapping[str, Any] = field(default_factory=lambda: NO_HEADERS)
