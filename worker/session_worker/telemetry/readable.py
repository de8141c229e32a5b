"""A line of the log for a person at a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import structlog

from session_worker.telemetry.printable import printable

if TYPE_CHECKING:
    from collections.abc import Mapping


def _plain(value: object) -> str:
    """One word as it is; anything else in quotes, with what a terminal would obey spelled out."""
    if isinstance(value, float):
        return f"{round(value, 3):g}"
    text = str(value)
    return printable(repr(text)) if " " in text or text != printable(text) else text


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


def rendered(time_of_day: str, level: str, line: Mapping[str, Any]) -> str:
    """``line`` has plain values only; what a terminal would obey in them is spelled out."""
    known = {printable(name): value for name, value in line.items() if value is not None}
    if "request_id" in known:  # its line has no room for both, and `status` names the request's worker
        known.pop("worker_id", None)
    if "exception" in known:
        known["exception"] = printable(str(known["exception"]), keep="\n")
    known["event"] = printable(str(line["event"]))
    return str(_console(None, level, {"timestamp": time_of_day, "level": level, **known}))
