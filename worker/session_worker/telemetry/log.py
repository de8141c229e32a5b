"""The worker's log: a line for each event. JSON for machines, readable on a terminal."""

from __future__ import annotations

import atexit
import logging
import os
import sys
import time
from dataclasses import dataclass, fields
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

from session_worker.telemetry import events, plain_values
from session_worker.telemetry.lines import ATTEMPT_FAILED, as_json, as_text
from session_worker.telemetry.stderr import Stderr
from session_worker.telemetry.trace import current_trace

if TYPE_CHECKING:
    from collections.abc import Callable

    from session_worker.telemetry.events import Event, Listeners

LINES: dict[type[Event], tuple[str, str]] = {
    events.AttemptEnded: ("debug", "attempt ended"),
    events.AttemptFailed: ("warning", ATTEMPT_FAILED),
    events.RequestFinished: ("info", "request finished"),
    events.ReplyConfirmed: ("debug", "reply confirmed"),
    events.ReplyUndeliverable: ("warning", "reply undeliverable"),
    events.RequestParked: ("warning", "request parked"),
    events.RequestNotParked: ("error", "request not parked"),
    events.CopyNotTaken: ("error", "copy not taken"),
    events.DeliveryLeft: ("info", "delivery left to the broker"),
    events.RequestTakenOver: ("warning", "request was taken over"),
    events.RequestHandedBack: ("info", "request handed back"),
    events.OutcomeNotRecorded: ("error", "outcome could not be recorded"),
    events.DeliveryFailed: ("error", "delivery failed unexpectedly"),
    events.LedgerCommitted: ("debug", "ledger committed"),
    events.LedgerPruned: ("info", "ledger pruned"),
    events.LedgerNotPruned: ("warning", "ledger not pruned"),
    events.WorkerUp: ("info", "worker up"),
    events.QueueOwnerUnknown: ("warning", "ledger of the queues unknown"),
    events.LinkFailed: ("warning", "no link to the broker"),
    events.LinkLost: ("warning", "link lost"),
    events.EntranceNotKept: ("warning", "entrance not kept"),
    events.ConsumingPaused: ("warning", "consuming paused"),
    events.ConsumingResumed: ("warning", "consuming again"),
    events.Draining: ("info", "draining"),
    events.HandingBack: ("warning", "handing back"),
    events.LifespanFailed: ("error", "lifespan failed"),
    events.LifespanNotLeft: ("warning", "lifespan not left"),
    events.WorkerStopped: ("info", "worker stopped"),
    events.TracesNotTaken: ("warning", "traces not taken"),
}
"""The level and the text of each event's line; its fields follow."""

_identity: dict[str, str] = {}
_OURS = frozenset(("timestamp", "level", "worker_id"))


@dataclass(frozen=True, slots=True)
class _Log:
    out: Stderr
    threshold: int
    render: Callable[[dict[str, Any]], bytes]

    def shows(self, level: str) -> bool:
        return logging.getLevelNamesMapping()[level.upper()] >= self.threshold

    def put(self, line: dict[str, Any]) -> None:
        self.out.write(self.render(line))


_log: _Log | None = None


def configure(level: str) -> None:
    """Log to standard error from ``level`` (debug, info, warning, error) on."""
    global _log
    out = Stderr(sys.stderr.fileno())
    atexit.register(out.flush)
    render = partial(as_text, encoding=sys.stderr.encoding) if sys.stderr.isatty() else as_json
    _log = _Log(out, logging.getLevelNamesMapping()[level.upper()], render)


def say(level: str, event: object, /, **said: Any) -> None:
    """Log a line if the level is on. ``said`` may be anything; ``exc_info`` adds a stack trace."""
    if _log is not None and _log.shows(level):
        write(level, event, **said)


def write(level: str, event: object, /, **said: Any) -> None:
    """Log a line, whatever the level."""
    if _log is not None:
        _log.put(_begun(level) | _fields(event, said))


def threshold() -> int:
    """The lowest level that is on, by the standard library's numbers."""
    return logging.CRITICAL if _log is None else _log.threshold


def flush() -> None:
    """Write what waits, because the process is about to end at once."""
    if _log is not None:
        _log.out.flush()


def _forked() -> None:
    if _log is not None:
        _log.out.forget()


os.register_at_fork(after_in_child=_forked)


def identify(worker_id: str) -> None:
    """Have every line from now on name the worker."""
    _identity["worker_id"] = worker_id


def listeners() -> Listeners:
    """Return what writes a line for each event whose level is on."""
    if _log is None:
        return {}
    return {
        kind: _writer(_log, kind, level, text) for kind, (level, text) in LINES.items() if _log.shows(level)
    }


def _writer(log: _Log, kind: type[Event], level: str, text: str) -> Callable[[Event], None]:
    names = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    about_request = "request_id" in names

    def tell(event: Event) -> None:
        line = _begun(level)
        line["event"] = text
        for name in names:
            line[name] = getattr(event, name)
        if about_request and (context := current_trace.get().context) is not None:
            line["trace_id"] = context.trace_id
        if (error := line.pop("exc_info", None)) is not None:
            line["exception"] = plain_values.stack_trace(error)
        log.put(line)

    return tell


def _fields(event: object, said: dict[str, Any]) -> dict[str, Any]:
    """Turn what was said into plain values. A field with the name of one of ours gets an underscore."""
    found: dict[str, Any] = {"event": event}
    if (error := plain_values.exception(said.pop("exc_info", None))) is not None:
        found["exception"] = plain_values.stack_trace(error)
    for given, value in said.items():
        name = str.__str__(given)[: plain_values.LONGEST_NAME]
        while name in found or name in _OURS:
            name += "_"
        found[name] = value
    return plain_values.plain_values(found)


def _begun(level: str) -> dict[str, Any]:
    """What every line begins with."""
    return {"timestamp": _moment(int(time.time() * 1000)), "level": level, **_identity}


@lru_cache(maxsize=1)  # many lines are of the same millisecond
def _moment(milliseconds: int) -> str:
    seconds, rest = divmod(milliseconds, 1000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{rest:03}Z"
