"""The statuses of a request and the only moves between them. The diagram in the docs is made from here."""

from __future__ import annotations

from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


class RequestStatus(StrEnum):
    """Status of a request."""

    PENDING = "pending"
    PROCESSING = "processing"
    COMPLETED = "completed"
    FAILED = "failed"


Move = tuple[RequestStatus | None, RequestStatus]

REASONS: Mapping[Move, str] = MappingProxyType(
    {
        (None, RequestStatus.PENDING): "first claim",
        (RequestStatus.PENDING, RequestStatus.PROCESSING): "an attempt starts",
        (RequestStatus.PROCESSING, RequestStatus.PENDING): "waits for its next attempt, or is handed back",
        (RequestStatus.PROCESSING, RequestStatus.COMPLETED): "session created",
        (RequestStatus.PROCESSING, RequestStatus.FAILED): "rejected, or attempts spent",
        (RequestStatus.PENDING, RequestStatus.FAILED): "its time ended while it waited",
        (RequestStatus.FAILED, RequestStatus.PENDING): "replayed by an operator",
    }
)
"""Why a request moves; None is "never heard of it". A worker that takes a gone holder's request over hands it
back first, in the gone one's place."""

MOVES: frozenset[Move] = frozenset(REASONS)


class IllegalMoveError(Exception):
    """A request was to move between two statuses that no move joins."""


def check_move(old: RequestStatus | None, new: RequestStatus) -> None:
    """Raises IllegalMoveError unless ``old`` → ``new`` is one of ``MOVES``."""
    if (old, new) not in MOVES:
        raise IllegalMoveError(f"a request cannot move from {old or 'unknown'} to {new}")


def mermaid() -> str:
    """The moves as a Mermaid state diagram."""
    lines = ["stateDiagram-v2"]
    lines += [f"    {old or '[*]'} --> {new}: {why}" for (old, new), why in REASONS.items()]
    lines.append(f"    {RequestStatus.COMPLETED} --> [*]")
    return "\n".join(lines) + "\n"
