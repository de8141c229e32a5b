"""Lines of the worker's log from what handlers and libraries say by other means: one stream, one format.

They may use structlog, ``logging``, ``warnings`` and ``print``, and set these up as they like: the worker's
own lines depend on none of them.
"""

from __future__ import annotations

import io
import logging
import threading
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import TYPE_CHECKING, Any

import structlog

from session_worker.telemetry import log, plain_values

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SILENT = ("aiormq", "aio_pika")
"""Libraries whose loggers print whole messages, bodies included."""
LONGEST_BEGINNING = 8192
"""Bytes of a line that has not ended; more become a line of their own."""
_LEVELS = ("debug", "debug", "info", "warning", "error", "critical")
"""By tens of the standard library's numbers."""
_STANDARD = {*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"}


@contextmanager
def output() -> Iterator[None]:
    """Put all that is said in this process into the log; processes that it starts write as before."""
    root, handler = logging.getLogger(), _Records(log.threshold())
    level = root.level
    stdout, stderr = _Printed("stdout", "info", 1), _Printed("stderr", "warning", 2)
    structlog.configure(processors=[], wrapper_class=Logger, logger_factory=Logger.new_one)
    root.addHandler(handler)
    root.setLevel(log.threshold())
    logging.captureWarnings(True)
    try:
        with redirect_stdout(_as_text(stdout)), redirect_stderr(_as_text(stderr)):
            yield
    finally:
        logging.captureWarnings(False)
        root.setLevel(level)
        root.removeHandler(handler)
        stdout.end()
        stderr.end()


# ------------------------------------------------------------------------------------- structlog


def _method(level: str, **always: Any) -> Callable[..., None]:
    # Positional only: a field may have the name of any parameter.
    def tell(self: Logger, /, *said: Any, **fields: Any) -> None:
        self.tell(level, said, always | fields)

    return tell


def _asynchronous(method: Callable[..., None]) -> Callable[..., Any]:
    async def tell(self: Logger, /, *said: Any, **fields: Any) -> None:
        method(self, *said, **fields)

    return tell


class Logger(structlog.BoundLoggerBase):
    """structlog's logger, which takes any value."""

    @classmethod
    def new_one(cls, *_: object) -> Logger:
        return cls(None, [], {})

    def is_enabled_for(self, level: int) -> bool:
        return level >= log.threshold()

    def get_effective_level(self) -> int:
        return log.threshold()

    def tell(self, level: str, said: tuple[Any, ...], fields: dict[str, Any]) -> None:
        event, *arguments = said or (fields.pop("event", ""),)
        log.say(level, plain_values.interpolated(event, tuple(arguments)), **{**self._context, **fields})

    def log(self, level: int, /, *said: Any, **fields: Any) -> None:
        self.tell(_level_of(level), said, fields)

    debug = _method("debug")
    info = msg = _method("info")
    warning = warn = _method("warning")
    error = err = _method("error")
    exception = _method("error", exc_info=True)
    critical = fatal = _method("critical")

    alog = _asynchronous(log)
    adebug = _asynchronous(debug)
    ainfo = amsg = _asynchronous(info)
    awarning = awarn = _asynchronous(warning)
    aerror = aerr = _asynchronous(error)
    aexception = _asynchronous(exception)
    acritical = afatal = _asynchronous(critical)


def _level_of(number: int) -> str:
    """The name of one of our levels, by the standard library's number."""
    return _LEVELS[max(0, min(number // 10, 5))]


# --------------------------------------------------------------- the standard library, and print


class _Records(logging.Handler):
    """The standard library's records."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.name.partition(".")[0] in SILENT:
            return
        said = {"logger": record.name, "exc_info": record.exc_info}
        said |= {name: value for name, value in vars(record).items() if name not in _STANDARD}
        arguments = record.args if type(record.args) is tuple else (record.args,)
        text = plain_values.interpolated(record.msg, arguments) if record.args else record.msg
        log.say(_level_of(record.levelno), text, **said)


class _Printed(io.RawIOBase):
    """Standard output or error as a file: a line of ours for each line."""

    def __init__(self, name: str, level: str, number: int) -> None:
        self.name, self._level, self._number = name, level, number
        self._begun: dict[int, bytes] = {}
        """By thread: several may be in the middle of a line."""

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._number

    def write(self, data: Any, /) -> int:
        thread, new = threading.get_ident(), bytes(data)
        *lines, begun = (self._begun.pop(thread, b"") + new).split(b"\n")
        if len(begun) > LONGEST_BEGINNING:
            lines.append(begun)
        elif begun:
            self._begun[thread] = begun
        for line in lines:
            self._tell(line)
        return len(new)

    def end(self) -> None:
        """Tell what was begun."""
        while self._begun:
            self._tell(self._begun.popitem()[1])

    def _tell(self, line: bytes) -> None:
        if line.strip():
            log.write(self._level, line.rstrip(), logger=self.name)


def _as_text(printed: _Printed) -> io.TextIOWrapper:
    return io.TextIOWrapper(printed, encoding="utf-8", errors="backslashreplace", write_through=True)
