"""Whether the ledger answers at the moment."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tenacity import wait_random_exponential

if TYPE_CHECKING:
    from collections.abc import Callable


BACKOFF = wait_random_exponential(multiplier=0.1, min=0.05, max=2)
"""How long to wait before the next try while the ledger is away: a few moments at first, never over 2 s."""


class Availability:
    """Up, or away for a ``reason``. Ledgers set it; the service pauses consuming while it is away."""

    def __init__(self) -> None:
        self.up = True
        self.reason = ""
        self._watchers: list[Callable[[bool], None]] = []

    def watch(self, watcher: Callable[[bool], None]) -> None:
        """Call ``watcher(up)`` in the event loop at every change."""
        self._watchers.append(watcher)

    def lost(self, reason: str) -> None:
        self._change(up=False, reason=reason)

    def back(self) -> None:
        self._change(up=True, reason="")

    def _change(self, *, up: bool, reason: str) -> None:
        self.reason = reason
        if up == self.up:
            return
        self.up = up
        for watcher in self._watchers:
            watcher(up)
