"""How a worker process is told to stop, and what makes sure that it ends."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading

import structlog

log = structlog.get_logger()

SHUTDOWN_SECONDS = 25.0
"""What pausing, giving back, closing the link and closing the ledger may take together, beside the grace."""


class StartError(Exception):
    """The worker cannot start; the message says why and what to do."""


class Stop:
    """The order to stop. Made in the event loop; ``asked`` is set there."""

    def __init__(self, grace: float) -> None:
        self.asked = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._grace = grace
        self._deadline: threading.Timer | None = None
        self._signalled = False

    def listen(self) -> None:
        """Stop at SIGTERM or SIGINT; a second one ends the process at once."""
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._on_signal)

    def ask(self) -> None:
        """Stop, from any thread and as often as one likes. A stop that does not end, ends the process."""
        if self._deadline is not None:
            return
        self._deadline = threading.Timer(
            self._grace + SHUTDOWN_SECONDS, exit_now, ["the shutdown took too long"]
        )
        self._deadline.daemon = True
        self._deadline.start()
        self._loop.call_soon_threadsafe(self.asked.set)

    def _on_signal(self) -> None:
        if self._signalled:
            exit_now("second signal")
        self._signalled = True
        self.ask()


def exit_now(reason: str, code: int = 1) -> None:
    """End the process, whatever runs."""
    log.error("worker ends at once", reason=reason)
    sys.stderr.flush()
    os._exit(code)
