"""The worker's log: a line for each event. JSON for machines, readable on a terminal."""

from __future__ import annotations

import atexit
import json
import logging
import re
import sys
import time
from dataclasses import fields
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import pydantic_core
import structlog
from pydantic_core import SchemaSerializer, core_schema

from worker.telemetry import events
from worker.telemetry.stderr import PIPE_BUF, Stderr
from worker.telemetry.trace import current_trace

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from structlog.typing import EventDict, WrappedLogger

    from worker.telemetry.events import Event, Listeners

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
    events.LinkFailed: ("warning", "no link to the broker"),
    events.LinkLost: ("warning", "link lost"),
    events.ConsumingPaused: ("warning", "consuming paused"),
    events.ConsumingResumed: ("warning", "consuming again"),
    events.Draining: ("info", "draining"),
    events.GivingBack: ("warning", "giving back"),
    events.WorkerStopped: ("info", "worker stopped"),
    events.TracesNotTaken: ("warning", "traces not taken"),
}
"""The level and the text of each event's line; its fields follow."""

_ROOMS = (3000, 1000, 300, 100)
"""Characters that are left of a text, fewer and fewer, until the line fits into one write: a longer one would
be torn apart by the lines of other processes on the same pipe."""

_identity: dict[str, Any] = {}
_OURS = frozenset(("timestamp", "level", "worker_id"))
_SLASH = ord("/")
_SECRET = re.compile(r"(://[^/?#\s\"'@:]*:)[^/?#\s\"']*(?=@)|([?&]password=)[^&\s\"']*")


def configure(level: str) -> None:
    """Log to standard error from ``level`` (debug, info, warning, error) on."""
    out = Stderr(sys.stderr.fileno())
    atexit.register(out.flush)
    structlog.configure(
        processors=[_readable if sys.stderr.isatty() else _json],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=lambda *_: out,
        cache_logger_on_first_use=True,
    )


def flush() -> None:
    """Write out what waits: the process is about to end without further ado."""
    out = structlog.get_config()["logger_factory"]()
    if isinstance(out, Stderr):
        out.flush()


def identify(worker_id: str) -> None:
    """From now on every line says whose it is."""
    _identity["worker_id"] = worker_id
    _same.cache_clear()


def listeners() -> Listeners:
    """What writes a line for each event of a level that is on."""
    log = structlog.get_logger().bind()
    return {
        kind: _writer(kind, level, text)
        for kind, (level, text) in LINES.items()
        if log.is_enabled_for(logging.getLevelNamesMapping()[level.upper()])
    }


def _writer(kind: type[Event], level: str, text: str) -> Callable[[Event], None]:
    """By structlog's own parts, but past its bound logger, which takes longer than all of them."""
    config = structlog.get_config()
    processors = config["processors"]
    write = getattr(config["logger_factory"](), level)
    names = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    about_request = "request_id" in names

    def tell(event: Event) -> None:
        line: Any = {"event": text}
        for name in names:
            line[name] = getattr(event, name)
        if about_request and (context := current_trace.get().context) is not None:
            line["trace_id"] = context.trace_id
        for process in processors:
            line = process(None, level, line)
        write(line)

    if processors != [_json] or not names or "exc_info" in names:
        return tell
    to_json = _serializer(kind, names).to_json
    before = _encoded({"event": text})[1:-1] + b","

    def tell_machines(event: Event) -> None:
        """The same in half the time."""
        try:
            data = to_json(event)
        except ValueError:  # as in _encoded
            tell(event)
            return
        if about_request and (context := current_trace.get().context) is not None:
            data = data[:-1] + b',"trace_id":"' + context.trace_id.encode() + b'"}'
        write(_line(level, before + data[1:]))

    return tell_machines


def _serializer(kind: type[Event], names: list[str]) -> SchemaSerializer:
    """Writes an event's fields as they are."""
    anything = [core_schema.dataclass_field(name, core_schema.any_schema()) for name in names]
    schema = core_schema.dataclass_args_schema(kind.__name__, anything)
    return SchemaSerializer(core_schema.dataclass_schema(kind, schema, names, slots=True))


def _json(_logger: WrappedLogger, level: str, event: EventDict) -> bytes:
    if "exc_info" in event:
        structlog.processors.format_exc_info(_logger, level, event)
    if not _OURS.isdisjoint(event):  # a handler's words
        event = {f"{name}_" if name in _OURS else name: value for name, value in event.items()}
    return _line(level, _encoded(event)[1:])


def _line(level: str, rest: bytes) -> bytes:
    data = b'{"timestamp":"' + _now() + b'",' + _same(level) + b"," + rest
    if _SLASH in data:  # there may be a URL
        data = _SECRET.sub(r"\1\2***", data.decode()).encode()
    if len(data) >= PIPE_BUF:
        data = _fitting(data)
    return data + b"\n"


@lru_cache
def _same(level: str) -> bytes:
    """What is the same in all lines of the level."""
    return _encoded({"level": level, **_identity})[1:-1]


def _fitting(data: bytes) -> bytes:
    line = json.loads(data)
    for room in _ROOMS:
        data = _encoded({name: _shortened(value, room) for name, value in line.items()})
        if len(data) < PIPE_BUF:
            break
    return data


def _encoded(line: Mapping[str, Any]) -> bytes:
    try:
        return pydantic_core.to_json(line, fallback=str)
    except ValueError:  # half a surrogate pair, in an exception's text for example
        return json.dumps(line, default=str).encode()


def _shortened(value: Any, room: int) -> Any:
    """Without its middle: a stack trace says most at its end."""
    if not isinstance(value, str) or len(value) <= room:
        return value
    return f"{value[: room // 3]} … {value[-2 * room // 3 :]}"


def _plain(value: object) -> str:
    """One word as it is; anything else in quotes, with what a terminal would obey spelled out."""
    if isinstance(value, float):
        return f"{round(value, 3):g}"
    text = str(value)
    return text if text.isprintable() and " " not in text else repr(text)


def _column(name: str, style: str = "", *, key: bool = False) -> structlog.dev.Column:
    formatter = structlog.dev.KeyValueColumnFormatter(
        structlog.dev.CYAN if key else None, style, structlog.dev.RESET_ALL, _plain
    )
    return structlog.dev.Column(name, formatter)


def _words(name: str, width: int, styles: Mapping[str, str]) -> structlog.dev.Column:
    """For words of ours."""

    def shown(key: str, value: object) -> str:  # noqa: ARG001 - what structlog calls
        return f"{styles.get(str(value), structlog.dev.BRIGHT)}{value!s:<{width}}{structlog.dev.RESET_ALL}"

    return structlog.dev.Column(name, shown)


_COLOURS = {
    "debug": "",
    "info": structlog.dev.GREEN,
    "warning": structlog.dev.YELLOW,
    "error": structlog.dev.RED,
}
_console = structlog.dev.ConsoleRenderer(
    columns=[
        _column("timestamp", structlog.dev.DIM),
        _words("level", 7, _COLOURS),
        _words("event", 16, {}),
        _column("request_id"),
        _column("outcome", key=True),
        _column("", key=True),
    ],
    exception_formatter=structlog.dev.plain_traceback,
    sort_keys=False,
)


def _readable(_logger: WrappedLogger, level: str, event: EventDict) -> bytes:
    known = {name: value for name, value in {**event, **_identity}.items() if value is not None}
    if "request_id" in known:  # its line has no room for both, and `status` names the request's worker
        known.pop("worker_id", None)
    _, _, time_of_day = _now().decode().partition("T")
    text = _console(_logger, level, {"timestamp": time_of_day, "level": level, **known})
    return _SECRET.sub(r"\1\2***", str(text)).encode("utf-8", "replace") + b"\n"


def _now() -> bytes:
    return _moment(int(time.time() * 1000))


@lru_cache(maxsize=1)  # many lines are of the same millisecond
def _moment(milliseconds: int) -> bytes:
    return f"{_second(milliseconds // 1000)}.{milliseconds % 1000:03}Z".encode()


@lru_cache(maxsize=1)
def _second(second: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
