"""Whether the ledger answers at the moment."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tenacity import wait_random_exponential

if TYPE_CHECKING:
    from collections.abc import Callable


BACKOFF = wait_random_exponential(multiplier=0.1, min=0.05, max=2)
"""Pauses between tries while the ledger is away: short at first, never over 2 s."""


class Availability:
    """Up, or away for a ``reason``. The ledger sets it; the worker pauses consuming while it is away."""

    def __init__(self) -> None:
        self.up = True
        self.reason = ""
        self._watchers: list[Callable[[bool], None]] = []

    def watch(self, watcher: Callable[[bool], None]) -> None:
        """Call ``watcher(up)`` in the event loop at every change."""
        self._watchers.append(watcher)

    def report(self, reason: str) -> None:
        """It is away for this ``reason``; empty: it is up."""
        self.reason = reason
        if self.up != (not reason):
            self.up = not reason
            for watcher in self._watchers:
                watcher(self.up)
