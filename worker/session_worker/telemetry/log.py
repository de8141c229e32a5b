"""The worker's log: a line for each event. JSON for machines, readable on a terminal."""

from __future__ import annotations

import atexit
import json
import logging
import os
import re
import sys
import time
from dataclasses import dataclass, fields
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

import pydantic_core
from pydantic_core import SchemaSerializer, core_schema

from session_worker.telemetry import events, values
from session_worker.telemetry.printable import printable_json
from session_worker.telemetry.stderr import PIPE_BUF, Stderr
from session_worker.telemetry.trace import current_trace

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from session_worker.telemetry.events import Event, Listeners

LINES: dict[type[Event], tuple[str, str]] = {
    events.AttemptEnded: ("debug", "attempt ended"),
    events.AttemptFailed: ("warning", "attempt failed"),
    events.RequestFinished: ("info", "request finished"),
    events.ReplyConfirmed: ("debug", "reply confirmed"),
    events.ReplyUndeliverable: ("warning", "reply undeliverable"),
    events.RequestParked: ("warning", "request parked"),
    events.ParkingLotRefused: ("error", "parking lot refuses"),
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
    events.OwnerUnknown: ("warning", "ledger of the queues unknown"),
    events.LinkFailed: ("warning", "no link to the broker"),
    events.LinkLost: ("warning", "link lost"),
    events.EntranceNotKept: ("warning", "entrance not kept"),
    events.ConsumingPaused: ("warning", "consuming paused"),
    events.ConsumingResumed: ("warning", "consuming again"),
    events.Draining: ("info", "draining"),
    events.GivingBack: ("warning", "giving back"),
    events.WorkerStopped: ("info", "worker stopped"),
    events.TracesNotTaken: ("warning", "traces not taken"),
}
"""The level and the text of each event's line; its fields follow."""

_ROOMS = (3000, 1000, 300, 100)
"""Characters that are left of a value, fewer and fewer, until the line fits into one write: a longer one
would be torn apart by the lines of other processes on the same pipe."""

_identity: dict[str, Any] = {}
_OURS = frozenset(("timestamp", "level", "worker_id"))
_SLASH, _DELETE = b"/\x7f"
_SECRET = re.compile(r"(://[^/?#\s\"'@:]*:)[^/?#\s\"']*(?=@)|([?&]password=)[^&\s\"']*")


@dataclass(frozen=True, slots=True)
class _Log:
    out: Stderr
    threshold: int
    render: Callable[[str, dict[str, Any]], bytes]

    def shows(self, level: str) -> bool:
        return logging.getLevelNamesMapping()[level.upper()] >= self.threshold


_log: _Log | None = None


def configure(level: str) -> None:
    """Log to standard error from ``level`` (debug, info, warning, error) on."""
    global _log
    out = Stderr(sys.stderr.fileno())
    atexit.register(out.flush)
    render = partial(_readable, sys.stderr.encoding) if sys.stderr.isatty() else _json
    _log = _Log(out, logging.getLevelNamesMapping()[level.upper()], render)


def say(level: str, event: object, /, **said: Any) -> None:
    """Log a line if the level is on. ``said`` may be anything; ``exc_info`` adds a stack trace."""
    if _log is not None and _log.shows(level):
        write(level, event, **said)


def write(level: str, event: object, /, **said: Any) -> None:
    """Log a line, whatever the level."""
    if _log is not None:
        _log.out.write(_log.render(level, _fields(event, said)))


def threshold() -> int:
    """The lowest level that is on, by the standard library's numbers."""
    return logging.CRITICAL if _log is None else _log.threshold


def flush() -> None:
    """Write out what waits: the process is about to end without further ado."""
    if _log is not None:
        _log.out.flush()


def _forked() -> None:
    if _log is not None:
        _log.out.forget()


os.register_at_fork(after_in_child=_forked)


def identify(worker_id: str) -> None:
    """From now on every line says whose it is."""
    _identity["worker_id"] = worker_id
    _same.cache_clear()


def listeners() -> Listeners:
    """What writes a line for each event of a level that is on."""
    if _log is None:
        return {}
    return {
        kind: _writer(_log, kind, level, text) for kind, (level, text) in LINES.items() if _log.shows(level)
    }


def _writer(log: _Log, kind: type[Event], level: str, text: str) -> Callable[[Event], None]:
    names = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    about_request = "request_id" in names

    def tell(event: Event) -> None:
        said = {name: getattr(event, name) for name in names}
        if about_request and (context := current_trace.get().context) is not None:
            said["trace_id"] = context.trace_id
        write(level, text, **said)

    if log.render is not _json or not names or "exc_info" in names:
        return tell
    to_json = _serializer(kind, names).to_json
    before = _encoded({"event": text})[1:-1] + b","

    def tell_machines(event: Event) -> None:
        """The same in half the time: an event's values need no taming."""
        try:
            data = to_json(event)
        except ValueError:  # as in _encoded
            tell(event)
            return
        if about_request and (context := current_trace.get().context) is not None:
            data = data[:-1] + b',"trace_id":"' + context.trace_id.encode() + b'"}'
        log.out.write(_line(level, before + data[1:]))

    return tell_machines


def _serializer(kind: type[Event], names: list[str]) -> SchemaSerializer:
    """Writes an event's fields as they are."""
    anything = [core_schema.dataclass_field(name, core_schema.any_schema()) for name in names]
    schema = core_schema.dataclass_args_schema(kind.__name__, anything)
    return SchemaSerializer(core_schema.dataclass_schema(kind, schema, names, slots=True))


def _fields(event: object, said: dict[str, Any]) -> dict[str, Any]:
    """The line's fields as plain values. A field with the name of one of ours gets another name."""
    found: dict[str, Any] = {"event": event}
    if (error := values.exception(said.pop("exc_info", None))) is not None:
        found["exception"] = values.stack_trace(error)
    for given, value in said.items():
        name = str.__str__(given)[: values.LONGEST_NAME]
        while name in found or name in _OURS:
            name += "_"
        found[name] = value
    return values.plain(found)


def _json(level: str, line: dict[str, Any]) -> bytes:
    return _line(level, _encoded(line)[1:])


def _line(level: str, rest: bytes) -> bytes:
    data = b'{"timestamp":"' + _now() + b'",' + _same(level) + b"," + rest
    if _SLASH in data:  # there may be a URL
        data = _masked(data.decode()).encode()
    if not data.isascii() or _DELETE in data:
        data = printable_json(data.decode()).encode()
    if len(data) >= PIPE_BUF:
        data = _fitting(data)
    return data + b"\n"


def _masked(text: str) -> str:
    return _SECRET.sub(r"\1\2***", text)


@lru_cache
def _same(level: str) -> bytes:
    """What is the same in all lines of the level."""
    return _encoded({"level": level, **_identity})[1:-1]


def _fitting(data: bytes) -> bytes:
    line = json.loads(data)
    for room in _ROOMS:
        shorter = {name: _shortened(value, room) for name, value in line.items()}
        data = printable_json(_encoded(shorter).decode()).encode()
        if len(data) < PIPE_BUF:
            return data
    return _first_of(shorter)


def _first_of(line: dict[str, Any]) -> bytes:
    """As many fields as fit, and how many are missing."""
    missing = line.pop(values.LEFT_OUT, 0)
    kept: dict[str, Any] = {}
    room = PIPE_BUF - len(json.dumps({values.LEFT_OUT: 1_000_000}))
    for name, value in line.items():
        room -= len(json.dumps({name: value}))
        if room < 0:
            break
        kept[name] = value
    return json.dumps(kept | {values.LEFT_OUT: missing + len(line) - len(kept)}).encode()


def _encoded(line: Mapping[str, Any]) -> bytes:
    try:
        return pydantic_core.to_json(line)
    except ValueError:  # half a surrogate pair, in an exception's text for example
        return json.dumps(line, default=str).encode()


def _shortened(value: Any, room: int) -> Any:
    if not isinstance(value, str):
        if len(text := json.dumps(value)) <= room:
            return value
        value = text
    return values.shortened(value, room)


def _readable(encoding: str, level: str, line: dict[str, Any]) -> bytes:
    from session_worker.telemetry import readable

    _, _, time_of_day = _now().decode().partition("T")
    text = readable.rendered(time_of_day, level, {**line, **_identity})
    return _masked(text).encode(encoding, "replace") + b"\n"


def _now() -> bytes:
    return _moment(int(time.time() * 1000))


@lru_cache(maxsize=1)  # many lines are of the same millisecond
def _moment(milliseconds: int) -> bytes:
    return f"{_second(milliseconds // 1000)}.{milliseconds % 1000:03}Z".encode()


@lru_cache(maxsize=1)
def _second(second: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
