"""What happens in a worker: a class for each event, whose docstring is its documentation.

Log, metrics and traces only listen. Times are in seconds. ``attempt`` counts from 1, and is 0 where nothing
was attempted. ``request_id`` is None where none could be read. ``operation`` is that of the queue.
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
    """The handler ran, and returned, rejected the request or failed. `seconds` is its time, `queue_wait` the
    time from publishing to the first attempt, if that is known."""

    request_id: UUID
    attempt: int
    seconds: float
    queue_wait: float | None
    operation: str = ""


@dataclass(frozen=True, slots=True)
class AttemptFailed(Event):
    """An attempt failed. The next one follows in `next_attempt_in` seconds; None means there is none.
    `exception` is the traceback."""

    request_id: UUID
    attempt: int
    error_code: ErrorCode
    error: str
    next_attempt_in: float | None
    exception: str
    operation: str = ""


@dataclass(frozen=True, slots=True)
class RequestFinished(Event):
    """A request ended: its outcome is in the ledger (`completed`, `rejected`, `expired`, `failed`), the
    stored response was sent again (`replayed`), or nothing was claimed, and a copy was parked (`refused`).
    `seconds` is the time from the claim to the outcome."""

    request_id: UUID | None
    attempt: int
    outcome: Ending
    error_code: ErrorCode | None
    error: str | None = None
    seconds: float | None = None
    operation: str = ""


@dataclass(frozen=True, slots=True)
class ReplyConfirmed(Event):
    """The broker has confirmed a reply. `critical_seconds` is the time since the request was published; None
    for refused and replayed requests."""

    request_id: UUID | None
    attempt: int
    critical_seconds: float | None
    operation: str = ""


@dataclass(frozen=True, slots=True)
class ReplyUndeliverable(Event):
    """A reply could not be delivered: its queue is gone, or the broker did not take it. A requester who sends
    the same request again gets it."""

    request_id: UUID | None
    attempt: int
    reply_to: str
    reason: str
    operation: str = ""


@dataclass(frozen=True, slots=True)
class RequestParked(Event):
    """A copy of the request was parked as a dead letter, for people to look at."""

    request_id: UUID | None
    attempt: int
    error_code: ErrorCode
    reason: str
    operation: str = ""


@dataclass(frozen=True, slots=True)
class RequestNotParked(Event):
    """The parking lot takes no copies, because it is full. The request goes round and is parked later."""

    request_id: UUID | None
    attempt: int
    queue: str
    reason: str
    operation: str = ""


@dataclass(frozen=True, slots=True)
class CopyNotTaken(Event):
    """The broker does not take a copy that must not be lost. The worker tries again until it does."""

    request_id: UUID | None
    attempt: int
    queue: str
    reason: str
    operation: str = ""


@dataclass(frozen=True, slots=True)
class DeliveryLeft(Event):
    """The link was lost before a delivery was settled. The broker delivers it again."""

    request_id: UUID | None
    attempt: int
    outcome: str
    reason: str
    operation: str = ""


@dataclass(frozen=True, slots=True)
class RequestTakenOver(Event):
    """Another worker has taken the request over meanwhile. What was done here does not count."""

    request_id: UUID
    attempt: int
    operation: str = ""


@dataclass(frozen=True, slots=True)
class RequestHandedBack(Event):
    """The worker stops before the handler has ended. The attempt does not count; another worker makes it."""

    request_id: UUID
    attempt: int
    operation: str = ""


@dataclass(frozen=True, slots=True)
class OutcomeNotRecorded(Event):
    """The ledger did not take an outcome, which is a defect. The request is answered `internal_error`."""

    request_id: UUID
    attempt: int
    exc_info: Exception
    operation: str = ""


@dataclass(frozen=True, slots=True)
class DeliveryFailed(Event):
    """A delivery met a defect of the worker's. It goes round by the slowest retry queue."""

    request_id: UUID | None
    attempt: int
    exc_info: Exception
    operation: str = ""


# -------------------------------------------------------------------------------------- the ledger


@dataclass(frozen=True, slots=True)
class LedgerCommitted(Event):
    """One transaction was committed for `steps` steps. It took `seconds`, outages included."""

    steps: int
    seconds: float


@dataclass(frozen=True, slots=True)
class LedgerPruned(Event):
    """A round of pruning has removed `requests` old requests."""

    requests: int


@dataclass(frozen=True, slots=True)
class LedgerNotPruned(Event):
    """A round of pruning was broken off. The next one goes on from there."""

    reason: str
    exc_info: Exception | None


# -------------------------------------------------------------------------------------- the worker


@dataclass(frozen=True, slots=True)
class WorkerUp(Event):
    """The worker has a link to the broker: at the start, and again after each loss. `holds` says what was in
    the ledger when the worker started."""

    queue: str
    concurrency: int
    ledger: str
    holds: str


@dataclass(frozen=True, slots=True)
class QueueOwnerUnknown(Event):
    """The stream `marker`, which says whose the queues are, could not be read. The worker goes on as if they
    belonged to its ledger."""

    marker: str
    reason: str


@dataclass(frozen=True, slots=True)
class LinkFailed(Event):
    """The broker cannot be reached, or its queues are not right. The next try is in `retry_in` seconds."""

    reason: str
    retry_in: float


@dataclass(frozen=True, slots=True)
class LinkLost(Event):
    """The link to the broker was lost while `running` deliveries were in hand. A new one is opened now."""

    reason: str
    running: int


@dataclass(frozen=True, slots=True)
class EntranceNotKept(Event):
    """The exchange and its bindings could not be declared again: if somebody has deleted them, requests do
    not arrive. What arrives is served. Logged once for each reason; tried again after growing pauses."""

    reason: str


@dataclass(frozen=True, slots=True)
class ConsumingPaused(Event):
    """The worker asks for no deliveries of an operation, because the ledger is away, the broker takes nothing
    (`blocked`), or no thread is left for the operation's handlers."""

    ledger: str
    broker: str
    threads: str
    operation: str = ""


@dataclass(frozen=True, slots=True)
class ConsumingResumed(Event):
    """The worker asks for deliveries of an operation again."""

    ledger: str
    broker: str
    threads: str
    operation: str = ""


@dataclass(frozen=True, slots=True)
class Draining(Event):
    """The worker was told to stop. `running` deliveries have `grace` seconds to finish."""

    running: int
    grace: float


@dataclass(frozen=True, slots=True)
class HandingBack(Event):
    """The grace is over. `running` deliveries are handed back."""

    running: int


@dataclass(frozen=True, slots=True)
class LifespanFailed(Event):
    """The app's lifespan failed, or ended before it was left. Unless that happened while it was left, the
    worker ends."""

    exc_info: BaseException | None


@dataclass(frozen=True, slots=True)
class LifespanNotLeft(Event):
    """The worker ends without having left the app's lifespan: it takes too long, or handlers do not end,
    which may use what it has made."""

    reason: str


@dataclass(frozen=True, slots=True)
class WorkerStopped(Event):
    """The worker has stopped in order."""


@dataclass(frozen=True, slots=True)
class TracesNotTaken(Event):
    """The collector takes no traces, or takes them too slowly: spans are lost, requests are not. Logged at
    most once a minute."""

    reason: str


EVENTS: tuple[type[Event], ...] = tuple(
    thing
    for thing in globals().values()
    if isinstance(thing, type) and issubclass(thing, Event) and thing is not Event
)

Emit = Callable[[Event], None]
Listeners = Mapping[type[Any], Callable[[Any], None]]
"""What a subscriber calls for each type of event that it listens to."""


def emitter(*subscribers: Listeners) -> Emit:
    """Return a function that passes an event on, at once, to the subscribers that listen to its type."""
    heard: dict[type[Event], tuple[Callable[[Any], None], ...]] = {
        kind: tuple(listeners[kind] for listeners in subscribers if kind in listeners) for kind in EVENTS
    }

    def emit(event: Event) -> None:
        for tell in heard[type(event)]:
            tell(event)

    return emit


def unheard(_: Event) -> None:
    """An emitter that nobody listens to."""
