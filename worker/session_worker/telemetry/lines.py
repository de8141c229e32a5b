"""A line of the log as bytes: JSON for machines, readable for people at a terminal."""

from __future__ import annotations

import json
import re
from functools import cache
from typing import TYPE_CHECKING, Any

import pydantic_core

from session_worker.telemetry.plain_values import LEFT_OUT, shortened
from session_worker.telemetry.printable import printable, printable_json
from session_worker.telemetry.stderr import PIPE_BUF
from session_worker.telemetry.tracebacks import coloured, of_handler

if TYPE_CHECKING:
    from collections.abc import Mapping

    import structlog

_ROOMS = (3000, 1000, 300, 100)
"""Characters that are left of a value, fewer and fewer, until the line fits into one write: a longer one
would be torn apart by the lines of other processes on the same pipe."""
ATTEMPT_FAILED = "attempt failed"
"""The event whose stack trace is a handler's."""
_SLASH, _DELETE = b"/\x7f"
_SECRET = re.compile(r"(://[^/?#\s\"'@:]*:)[^/?#\s\"']*(?=@)|([?&]password=)[^&\s\"']*")


def _masked(text: str) -> str:
    return _SECRET.sub(r"\1\2***", text)


# ---------------------------------------------------------------------------------- for machines


def as_json(line: Mapping[str, Any]) -> bytes:
    """One JSON object, in printable characters, that a pipe takes in one piece."""
    data = _encoded(line)
    if _SLASH in data:  # there may be a URL
        data = _masked(data.decode()).encode()
    if not data.isascii() or _DELETE in data:
        data = printable_json(data.decode()).encode()
    if len(data) >= PIPE_BUF:
        data = _fitting(json.loads(data))
    return data + b"\n"


def _encoded(line: Mapping[str, Any]) -> bytes:
    try:
        return pydantic_core.to_json(line)
    except ValueError:  # half a surrogate pair, in an exception's text for example
        return json.dumps(line, default=str).encode()


def _fitting(line: dict[str, Any]) -> bytes:
    for room in _ROOMS:
        shorter = {name: _shortened(value, room) for name, value in line.items()}
        data = printable_json(_encoded(shorter).decode()).encode()
        if len(data) < PIPE_BUF:
            return data
    return _first_of(shorter)


def _shortened(value: Any, room: int) -> Any:
    text = value if isinstance(value, str) else json.dumps(value)
    return value if len(text) <= room else shortened(text, room)


def _first_of(line: dict[str, Any]) -> bytes:
    """As many fields as fit, and how many are missing."""
    missing = line.pop(LEFT_OUT, 0)
    kept: dict[str, Any] = {}
    room = PIPE_BUF - len(json.dumps({LEFT_OUT: 1_000_000}))
    for name, value in line.items():
        room -= len(json.dumps({name: value}))
        if room < 0:
            break
        kept[name] = value
    return json.dumps(kept | {LEFT_OUT: missing + len(line) - len(kept)}).encode()


# ------------------------------------------------------------------------------------ for people


def as_text(line: Mapping[str, Any], encoding: str) -> bytes:
    """What a terminal would obey in the line is spelled out."""
    known = {printable(name): value for name, value in line.items() if value is not None}
    known["timestamp"] = known["timestamp"].partition("T")[2]
    known["event"] = printable(str(line["event"]))
    trace = printable(str(known.pop("exception", "")), keep="\n")
    worker_id = known.pop("worker_id", None)
    if worker_id is not None and "request_id" not in known:  # a request's line has no room for both
        known["worker_id"] = worker_id
    if known.get("attempt") == 1:  # nor for what is the rule
        del known["attempt"]
    text = _masked(str(_console()(None, "", known)))
    if trace:
        own = of_handler(trace) if line["event"] == ATTEMPT_FAILED else trace
        text += "\n" + coloured(_masked(own))
    return text.encode(encoding, "replace") + b"\n"


@cache
def _console() -> structlog.dev.ConsoleRenderer:
    from structlog import dev

    def column(name: str, style: str = "", key_style: str | None = None) -> dev.Column:
        return dev.Column(name, dev.KeyValueColumnFormatter(key_style, style, dev.RESET_ALL, _value))

    def word(name: str, width: int, styles: Mapping[str, str]) -> dev.Column:
        def shown(key: str, value: object) -> str:  # noqa: ARG001 - what structlog calls
            return f"{styles.get(str(value), dev.BRIGHT)}{value!s:<{width}}{dev.RESET_ALL}"

        return dev.Column(name, shown)

    colours = {"debug": "", "info": dev.GREEN, "warning": dev.YELLOW, "error": dev.RED}
    return dev.ConsoleRenderer(
        columns=[
            column("timestamp", dev.DIM),
            word("level", 7, colours),
            word("event", 16, {}),
            column("request_id"),
            column("operation"),
            column("outcome", dev.BRIGHT),
            column("", key_style=dev.CYAN),
        ],
        sort_keys=False,
    )


def _value(value: object) -> str:
    """One word as it is, anything else in quotes."""
    if isinstance(value, float):
        return f"{round(value, 3):g}"
    text = str(value)
    return printable(repr(text)) if " " in text or text != printable(text) else text
