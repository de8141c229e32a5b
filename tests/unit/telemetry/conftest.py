"""Standard error as a pipe, and the log on it."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from session_worker.telemetry import log
from session_worker.telemetry.events import Emit, emitter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Pipe:
    """Standard error as a pipe whose other end is the test."""

    encoding = "utf-8"

    def __init__(self) -> None:
        self.reader, self._writer = os.pipe()
        os.set_blocking(self.reader, False)

    def fileno(self) -> int:
        return self._writer

    def isatty(self) -> bool:
        return False

    def read(self) -> bytes:
        """All that is there."""
        parts = []
        try:
            while part := os.read(self.reader, 65_536):
                parts.append(part)
        except BlockingIOError:
            pass
        return b"".join(parts)

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.read().splitlines()]

    def close(self) -> None:
        for end in (self.reader, self._writer):
            with suppress(OSError):  # a test has closed it
                os.close(end)


@pytest.fixture
def pipe(monkeypatch: pytest.MonkeyPatch) -> Iterator[Pipe]:
    pipe = Pipe()
    monkeypatch.setattr(log, "sys", SimpleNamespace(stderr=pipe))  # pytest has a standard error of its own
    yield pipe
    pipe.close()


@pytest.fixture
def logging(pipe: Pipe) -> Iterator[Callable[[str], Emit]]:
    """Configures the log for a level; what events are emitted to then."""

    def configure(level: str) -> Emit:
        log.configure(level)
        log.identify("host-1")
        return emitter(log.listeners())

    yield configure
    log._log = None
    log._identity.clear()
