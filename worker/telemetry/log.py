"""How the worker's log looks: JSON lines for machines, readable lines on a terminal."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING

import pydantic_core
import structlog

if TYPE_CHECKING:
    from structlog.typing import EventDict, WrappedLogger


def configure(level: str) -> None:
    """Log to standard error from ``level`` (debug, info, warning, error) on."""
    terminal = sys.stderr.isatty()
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *(
                [structlog.dev.ConsoleRenderer()]
                if terminal
                else [structlog.processors.format_exc_info, _json]
            ),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr)
        if terminal
        else structlog.BytesLoggerFactory(sys.stderr.buffer),
        cache_logger_on_first_use=True,
    )


def _json(_logger: WrappedLogger, _method: str, event: EventDict) -> bytes:
    return pydantic_core.to_json(event, fallback=str)
