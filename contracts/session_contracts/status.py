"""The statuses of a request and the only moves between them. Ledgers and the diagram are made from here."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple


class RequestStatus(StrEnum):
    """Status of a request."""

    PENDING = "pending"
    PROCESSING = "processing"
    COMPLETED = "completed"
    FAILED = "failed"


class Move(NamedTuple):
    """A request goes from one status to another. ``before`` is None when nobody has heard of it yet."""

    before: RequestStatus | None
    after: RequestStatus
    reason: str


FIRST_CLAIM = Move(None, RequestStatus.PENDING, "first claim")
ATTEMPT = Move(RequestStatus.PENDING, RequestStatus.PROCESSING, "an attempt starts")
RETRY = Move(RequestStatus.PROCESSING, RequestStatus.PENDING, "waits for its next attempt")
HANDED_BACK = Move(RequestStatus.PROCESSING, RequestStatus.PENDING, "handed back")
WORKER_GONE = Move(RequestStatus.PROCESSING, RequestStatus.PENDING, "its worker is gone")
COMPLETION = Move(RequestStatus.PROCESSING, RequestStatus.COMPLETED, "carried out")
FAILURE = Move(RequestStatus.PROCESSING, RequestStatus.FAILED, "rejected, or attempts spent")
EXPIRY = Move(RequestStatus.PENDING, RequestStatus.FAILED, "its time ended while it waited")
REDRIVE = Move(RequestStatus.FAILED, RequestStatus.PENDING, "redriven by an operator")

MOVES = (FIRST_CLAIM, ATTEMPT, RETRY, HANDED_BACK, WORKER_GONE, COMPLETION, FAILURE, EXPIRY, REDRIVE)


def mermaid() -> str:
    """The moves as a Mermaid state diagram."""
    reasons: dict[str, list[str]] = {}
    for before, after, reason in MOVES:
        reasons.setdefault(f"{before or '[*]'} --> {after}", []).append(reason)
    arrows = [f"    {arrow}: {', or '.join(why)}" for arrow, why in reasons.items()]
    return "\n".join(["stateDiagram-v2", *arrows, f"    {RequestStatus.COMPLETED} --> [*]"]) + "\n"
