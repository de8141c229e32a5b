"""The events of a worker under test, in the log of the standard library, where test runners show them."""

from __future__ import annotations

import logging
from dataclasses import fields
from typing import TYPE_CHECKING

from session_worker.telemetry.log import LINES

if TYPE_CHECKING:
    from collections.abc import Callable

    from session_worker.telemetry.events import Event, Listeners

_log = logging.getLogger("session_worker.testing")


def listeners() -> Listeners:
    return {kind: _writer(kind, level, text) for kind, (level, text) in LINES.items()}


def _writer(kind: type[Event], level: str, text: str) -> Callable[[Event], None]:
    names = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    number = logging.getLevelNamesMapping()[level.upper()]

    def write(event: Event) -> None:
        if _log.isEnabledFor(number):
            told = {name: getattr(event, name) for name in names}
            error = told.pop("exc_info", None)
            _log.log(number, "%s: %s", text, " ".join(_term(*each) for each in told.items()), exc_info=error)

    return write


def _term(name: str, value: object) -> str:
    return f"\n{value}" if name == "exception" else f"{name}={value}"
