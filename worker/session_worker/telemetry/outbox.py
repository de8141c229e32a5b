"""Spans on their way to a collector: they wait for a thread that sends many at a time."""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING

from session_client.net.trouble import words

if TYPE_CHECKING:
    from collections.abc import Callable

ROOM = 32_768
"""Spans that wait at the most; others are dropped. As many come in two busy seconds."""
BATCH = 4096
PAUSE_SECONDS = 1.0


class Outbox:
    """``send``, which may take its time, is given many spans at a time, as they were encoded.

    Nobody waits for it: what there is no room for is dropped, and ``trouble`` told so.
    """

    def __init__(self, send: Callable[[list[bytes]], object], trouble: Callable[[str], None]) -> None:
        self._send = send
        self._trouble = trouble
        self._waiting: deque[bytes] = deque()
        self._wake = threading.Event()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="spans", daemon=True)
        self._thread.start()

    def put(self, span: bytes) -> None:
        waiting = len(self._waiting)
        if waiting >= ROOM:
            self._trouble("the collector takes the spans too slowly")
            return
        self._waiting.append(span)
        if waiting == BATCH:
            self._wake.set()

    def close(self) -> None:
        """Send what waits; returns when that is done."""
        self._closing = True
        self._wake.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._closing:
            self._wake.wait(PAUSE_SECONDS)
            self._wake.clear()
            self._send_batch()
            while len(self._waiting) >= BATCH:
                self._send_batch()
        while self._waiting:
            self._send_batch()

    def _send_batch(self) -> None:
        batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), BATCH))]
        try:
            if batch:
                self._send(batch)
        except Exception as error:  # noqa: BLE001 - no thread without a master
            self._trouble(words(error))
