"""What happens in a worker, as types. Logs and metrics only listen; a class's docstring is its documentation.

Times are in seconds. ``attempt`` counts from 1; it is 0 where nothing was attempted. ``request_id`` is None
where none could be read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from uuid import UUID

    from session_contracts import ErrorCode

Ending = Literal["completed", "rejected", "expired", "failed", "refused", "replayed"]
"""How a request ends."""


class Event:
    """Something that happened."""

    __slots__ = ()


# ------------------------------------------------------------------------------------- a request


@dataclass(frozen=True, slots=True)
class AttemptEnded(Event):
    """The handler was called, and returned, refused or failed. `seconds` is its time, `queue_wait` the time
    from publishing to the first attempt, where that is known."""

    request_id: UUID
    attempt: int
    seconds: float
    queue_wait: float | None


@dataclass(frozen=True, slots=True)
class AttemptFailed(Event):
    """An attempt failed, and another one follows in `next_attempt_in` seconds, or none. `exception` is the
    traceback."""

    request_id: UUID
    attempt: int
    error_code: ErrorCode
    error: str
    next_attempt_in: float | None
    exception: str


@dataclass(frozen=True, slots=True)
class RequestFinished(Event):
    """A request ended: its outcome is in the ledger (`completed`, `rejected`, `expired`, `failed`), or a
    stored answer went out again (`replayed`), or what cannot be handled was answered and parked (`refused`).
    `seconds` is the time from the claim to the outcome."""

    request_id: UUID | None
    attempt: int
    outcome: Ending
    error_code: ErrorCode | None
    error: str | None = None
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class ReplyConfirmed(Event):
    """The broker has an answer. `critical_seconds` is the time since the request was published; None for
    refusals and for stored answers."""

    request_id: UUID | None
    attempt: int
    critical_seconds: float | None


@dataclass(frozen=True, slots=True)
class ReplyUndeliverable(Event):
    """An answer could not be delivered: its queue is gone, or the broker did not take it. Who asks again gets
    it."""

    request_id: UUID | None
    attempt: int
    reply_to: str
    reason: str


@dataclass(frozen=True, slots=True)
class RequestParked(Event):
    """A copy of the request was put on the parking lot, for people to look at."""

    request_id: UUID | None
    attempt: int
    error_code: ErrorCode
    reason: str


@dataclass(frozen=True, slots=True)
class ParkingLotRefused(Event):
    """The parking lot takes no copies: it is full. The copy goes round and is parked later."""

    request_id: UUID | None
    attempt: int
    queue: str
    reason: str


@dataclass(frozen=True, slots=True)
class CopyNotTaken(Event):
    """The broker does not take a copy that must not be lost; it is tried again until it does."""

    request_id: UUID | None
    attempt: int
    queue: str
    reason: str


@dataclass(frozen=True, slots=True)
class DeliveryLeft(Event):
    """The link was lost before a delivery was settled: the broker delivers it again."""

    request_id: UUID | None
    attempt: int
    outcome: str
    reason: str


@dataclass(frozen=True, slots=True)
class RequestTakenOver(Event):
    """Another worker took the request over meanwhile; what was done here does not count."""

    request_id: UUID
    attempt: int


@dataclass(frozen=True, slots=True)
class RequestHandedBack(Event):
    """The worker stops before the handler has ended: the attempt does not count, another worker makes it."""

    request_id: UUID
    attempt: int


@dataclass(frozen=True, slots=True)
class OutcomeNotRecorded(Event):
    """The ledger did not take an outcome, which is a defect: the request is answered `internal_error`."""

    request_id: UUID
    attempt: int
    exc_info: Exception


@dataclass(frozen=True, slots=True)
class DeliveryFailed(Event):
    """A delivery met a defect of the worker's: it goes round by the slowest retry queue."""

    request_id: UUID | None
    attempt: int
    exc_info: Exception


# -------------------------------------------------------------------------------------- the ledger


@dataclass(frozen=True, slots=True)
class LedgerCommitted(Event):
    """One transaction was committed for `steps` steps, after `seconds`: outages it waited out included."""

    steps: int
    seconds: float


@dataclass(frozen=True, slots=True)
class LedgerPruned(Event):
    """A round of pruning is over: `requests` old ones were forgotten."""

    requests: int


@dataclass(frozen=True, slots=True)
class LedgerNotPruned(Event):
    """A round of pruning was broken off; the next one goes on."""

    reason: str
    exc_info: Exception | None


# -------------------------------------------------------------------------------------- the worker


@dataclass(frozen=True, slots=True)
class WorkerUp(Event):
    """The worker has a link to the broker: at the start, and again whenever it was lost. `holds` tells what
    was in the ledger when the worker started."""

    queue: str
    concurrency: int
    ledger: str
    holds: str


@dataclass(frozen=True, slots=True)
class OwnerUnknown(Event):
    """Whether the queues belong to this ledger could not be looked up in the stream `marker`: the worker goes
    on as if they did."""

    marker: str
    reason: str


@dataclass(frozen=True, slots=True)
class LinkFailed(Event):
    """The broker cannot be reached, or its queues are not right; the next try is in `retry_in` seconds."""

    reason: str
    retry_in: float


@dataclass(frozen=True, slots=True)
class LinkLost(Event):
    """The link to the broker was lost while `running` deliveries were in hand. A new one is built at once."""

    reason: str
    running: int


@dataclass(frozen=True, slots=True)
class EntranceNotKept(Event):
    """Exchange and binding could not be declared again: requests may not find their way in, should somebody
    delete them. What arrives is served. Told once for each reason; tried again after growing pauses."""

    reason: str


@dataclass(frozen=True, slots=True)
class ConsumingPaused(Event):
    """The ledger is away, the broker takes nothing (`blocked`), or no thread is left for handlers: no
    deliveries are asked for meanwhile."""

    ledger: str
    broker: str
    threads: str


@dataclass(frozen=True, slots=True)
class ConsumingResumed(Event):
    """What consuming was paused for is over."""

    ledger: str
    broker: str
    threads: str


@dataclass(frozen=True, slots=True)
class Draining(Event):
    """The worker stops: `running` deliveries have `grace` seconds to finish."""

    running: int
    grace: float


@dataclass(frozen=True, slots=True)
class GivingBack(Event):
    """The grace is over: `running` deliveries are handed back."""

    running: int


@dataclass(frozen=True, slots=True)
class WorkerStopped(Event):
    """The worker has ended in order."""


@dataclass(frozen=True, slots=True)
class TracesNotTaken(Event):
    """The collector does not take the traces, or too slowly: spans are lost, requests are not. Told once a
    minute at the most."""

    reason: str


EVENTS: tuple[type[Event], ...] = tuple(
    thing
    for thing in globals().values()
    if isinstance(thing, type) and issubclass(thing, Event) and thing is not Event
)

Emit = Callable[[Event], None]
Listeners = Mapping[type[Any], Callable[[Any], None]]
"""What a subscriber does about each type of event that it listens to."""


def emitter(*subscribers: Listeners) -> Emit:
    """Tells each event to the subscribers that listen to its type: at once, and in order."""
    heard: dict[type[Event], tuple[Callable[[Any], None], ...]] = {
        kind: tuple(listeners[kind] for listeners in subscribers if kind in listeners) for kind in EVENTS
    }

    def emit(event: Event) -> None:
        for tell in heard[type(event)]:
            tell(event)

    return emit


def unheard(_: Event) -> None:
    """An emitter that nobody listens to."""
