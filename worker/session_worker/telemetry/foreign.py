"""Lines of the worker's log from what handlers and libraries say by other means: one stream, one format.

They may use structlog, ``logging``, ``warnings`` and ``print``, and set these up as they like: the worker's
own lines depend on none of them.
"""

from __future__ import annotations

import io
import logging
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import structlog

from session_worker.telemetry import log, values

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


LEVELS = ("debug", "debug", "info", "warning", "error", "critical")
"""By tens of the standard library's numbers."""
SILENT = ("aiormq", "aio_pika")
"""Libraries whose loggers print whole messages, bodies included."""
LONGEST_BEGINNING = 8192
"""Bytes of a line that was not ended; more are a line of their own."""
_STANDARD = {*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"}


@contextmanager
def gathered() -> Iterator[None]:
    """Put all that is said in this process into the log; processes that it starts write as before."""
    root, handler = logging.getLogger(), _Records()
    before = root.level, sys.stdout, sys.stderr
    printed = _Printed("stdout", "info", 1), _Printed("stderr", "warning", 2)
    structlog.configure(processors=[], wrapper_class=Logger, logger_factory=Logger.new_one)
    root.addHandler(handler)
    root.setLevel(log.threshold())
    logging.captureWarnings(True)
    sys.stdout, sys.stderr = map(_as_text, printed)
    try:
        yield
    finally:
        level, sys.stdout, sys.stderr = before
        logging.captureWarnings(False)
        root.setLevel(level)
        root.removeHandler(handler)
        for each in printed:
            each.end()


def level_of(number: int) -> str:
    """The name of one of our levels."""
    return LEVELS[max(0, min(number // 10, 5))]


def _method(level: str) -> Callable[..., None]:
    # Positional only: a field may have the name of any parameter.
    def tell(self: Logger, /, *said: Any, **fields: Any) -> None:
        self._tell(level, said, fields)

    return tell


def _asynchronous(level: str) -> Callable[..., Any]:
    async def tell(self: Logger, /, *said: Any, **fields: Any) -> None:
        self._tell(level, said, fields)

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

    def log(self, level: int, /, *said: Any, **fields: Any) -> None:
        self._tell(level_of(level), said, fields)

    async def alog(self, level: int, /, *said: Any, **fields: Any) -> None:
        self._tell(level_of(level), said, fields)

    def exception(self, /, *said: Any, **fields: Any) -> None:
        self._tell("error", said, {"exc_info": True} | fields)

    async def aexception(self, /, *said: Any, **fields: Any) -> None:
        self._tell("error", said, {"exc_info": True} | fields)

    debug, info, warning, error, critical = map(_method, LEVELS[1:])
    msg, warn, err, fatal = info, warning, error, critical
    adebug, ainfo, awarning, aerror, acritical = map(_asynchronous, LEVELS[1:])
    amsg, awarn, aerr, afatal = ainfo, awarning, aerror, acritical

    def _tell(self, level: str, said: tuple[Any, ...], fields: dict[str, Any]) -> None:
        event, *arguments = said or (fields.pop("event", ""),)
        log.say(level, values.interpolated(event, tuple(arguments)), **{**self._context, **fields})


class _Records(logging.Handler):
    """The standard library's records."""

    def __init__(self) -> None:
        super().__init__(log.threshold())

    def emit(self, record: logging.LogRecord) -> None:
        if record.name.partition(".")[0] in SILENT:
            return
        said = {"logger": record.name, "exc_info": record.exc_info}
        said |= {name: value for name, value in vars(record).items() if name not in _STANDARD}
        arguments = record.args if type(record.args) is tuple else (record.args,)
        text = values.interpolated(record.msg, arguments) if record.args else record.msg
        log.say(level_of(record.levelno), text, **said)


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
