"""How a worker process is told to stop, and what makes sure that it ends. ``Worker.run`` has the steps."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from typing import TYPE_CHECKING, NoReturn

from session_client.net.diagnosis import DiagnosedError
from session_worker.telemetry.log import flush, say

if TYPE_CHECKING:
    from collections.abc import Callable

SHUTDOWN_SECONDS = 30.0
"""What the steps of the shutdown in ``Worker.run`` may take together, beside the grace."""
EXIT_SECONDS = 3.0
"""What Python's own exit may take after that: ending threads, and calls that handlers registered."""


class StartError(DiagnosedError):
    """The worker cannot start."""


class Stop:
    """The order to stop. It is made in the event loop, and sets ``asked`` there.

    If the shutdown takes ``SHUTDOWN_SECONDS`` longer than ``grace``, or a second signal comes, ``last`` is
    called and the process ended.
    """

    def __init__(self, grace: float, last: Callable[[], None] = lambda: None) -> None:
        self.asked = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._grace = grace
        self._last = last
        self._deadline: threading.Timer | None = None
        self._signalled = False

    def listen(self) -> None:
        """Stop at SIGTERM, SIGINT and SIGHUP, except those that are ignored. A second one ends the process at
        once, but not SIGHUP: when a terminal is closed, both kernel and shell send one."""
        for number, obey in (
            (signal.SIGTERM, self._on_signal),
            (signal.SIGINT, self._on_signal),
            (signal.SIGHUP, self.ask),
        ):
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._loop.add_signal_handler(number, obey)

    def ask(self) -> None:
        """Stop. This may be called from any thread, and more than once."""
        if self._deadline is not None:
            return
        self._deadline = threading.Timer(
            self._grace + SHUTDOWN_SECONDS, self._end, ["the shutdown took too long"]
        )
        self._deadline.daemon = True
        self._deadline.start()
        self._loop.call_soon_threadsafe(self.asked.set)

    def _on_signal(self) -> None:
        if self._signalled:
            self._end("second signal")
        self._signalled = True
        self.ask()

    def _end(self, reason: str) -> None:
        self._last()
        exit_now(reason)


def exit_soon(code: int) -> None:
    """End the process within ``EXIT_SECONDS``, now that everything is closed. Python alone would wait for
    handlers' threads without end."""
    last = threading.Timer(EXIT_SECONDS, exit_now, ["some threads of handlers do not end", code])
    last.daemon = True
    last.start()


def exit_now(reason: str, code: int = 1) -> NoReturn:
    """End the process at once, whatever runs."""
    try:
        say("error", "worker ends at once", reason=reason)
        flush()
    finally:
        os._exit(code)
