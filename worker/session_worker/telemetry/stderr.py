"""Standard error, where the log goes: one write in a turn of the loop, and no waiting for the reader."""

from __future__ import annotations

import asyncio
import os
import select
import threading
import time
from collections import deque

PIPE_BUF = select.PIPE_BUF
"""Bytes that a writable pipe takes at once and in one piece, whoever else writes to it."""
MAX_BYTES = 4 * 1024 * 1024
"""What is kept for a reader that has stopped reading. Further lines are dropped, and counted."""
FLUSH_SECONDS = 1.0
"""How long ``flush`` waits for such a reader."""
_AGAIN = 0.1


class Stderr:
    """Writes lines of bytes. A reader that is gone, or has stopped reading, never holds up the worker."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self.forget()

    def forget(self) -> None:
        """Begin anew: after a fork, the parent writes the lines that wait."""
        self._turns = threading.RLock()  # handlers may log from threads
        self._writing = False
        self._lines: deque[bytes] = deque()
        self._bytes = 0
        self._dropped = 0
        self._loop: asyncio.AbstractEventLoop | None = None

    def write(self, line: bytes) -> None:
        """Write the line together with others at the end of the loop's turn, or at once without a loop."""
        if self._bytes > MAX_BYTES:
            self._dropped += 1
            return
        self._lines.append(line)
        self._bytes += len(line)
        if self._loop is None:
            try:
                loop = asyncio.get_running_loop()
            except RuntimeError:
                self.flush()
            else:
                self._loop = loop
                loop.call_soon(self._turn, loop)

    def flush(self) -> None:
        """Write what waits, for ``FLUSH_SECONDS`` seconds at most."""
        self._loop = None
        deadline = time.monotonic() + FLUSH_SECONDS
        while not self._drain() and (left := deadline - time.monotonic()) > 0:
            self._is_writable(left)

    def _turn(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._drain():
            self._loop = None
        else:
            loop.call_later(_AGAIN, self._turn, loop)

    def _drain(self) -> bool:
        """Write what can be written without waiting, and return whether that was all."""
        with self._turns:
            if self._writing:  # a finalizer logs in the middle of a write: that write goes on with this line
                return True
            self._writing = True
            try:
                while self._lines:
                    if not self._is_writable(0):
                        return False
                    self._write_piece()
            except BlockingIOError:
                return False
            except OSError:  # the reader is gone: nobody will read what waits
                self._lines.clear()
                self._bytes = 0
            finally:
                self._writing = False
            return True

    def _is_writable(self, seconds: float) -> bool:
        """Wait up to so many seconds for room. Two threads must not share a poll object."""
        writable = select.poll()
        writable.register(self._fd, select.POLLOUT)
        return bool(writable.poll(seconds * 1000))

    def _write_piece(self) -> None:
        """Write as many whole lines as a pipe takes in one piece, or the beginning of a longer one."""
        lines = [self._lines.popleft()]
        room = PIPE_BUF - len(lines[0])
        while self._lines and (room := room - len(self._lines[0])) >= 0:
            lines.append(self._lines.popleft())
        piece = b"".join(lines)
        try:
            written = os.write(self._fd, piece[:PIPE_BUF])
        except BlockingIOError:
            self._lines.appendleft(piece)
            raise
        self._bytes -= written
        if written < len(piece):
            self._lines.appendleft(piece[written:])
        if self._dropped and not self._lines:
            self._lines.append(b'{"event":"log lines dropped","count":%d}\n' % self._dropped)
            self._bytes += len(self._lines[0])
            self._dropped = 0
