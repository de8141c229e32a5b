"""A client in an event loop in a thread of its own, for callers who block."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, Any, TypeVar

from session_client.errors import ClientClosed

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from concurrent.futures import Future

    from session_client.client import SessionClient

T = TypeVar("T")

END_SECONDS = 2.0
"""Time for calls to end when their client is closed; then they are cancelled."""
JOIN_SECONDS = 10.0
"""More than the client takes to close, whatever its peer does."""


class Background:
    """Starts its thread when it is first asked for something. Any thread may ask."""

    def __init__(self, new_client: Callable[[], SessionClient]) -> None:
        self._new_client = new_client
        self._lock = threading.Lock()
        self._running: _Running | None = None
        self._ended = False

    def open(self, *, wait: bool) -> None:
        """Open the client, unless it is open already. Other threads' calls wait until that has ended.

        Raises:
            ConnectionFailed: it cannot be opened. It can be tried again.
            ClientClosed: it was closed.
        """
        with self._lock:
            if self._ended:
                raise ClientClosed("the client is closed; make a new one")
            if self._running is None:
                running = _Running(self._new_client())
                try:
                    running.start(lambda client: client.open(wait=wait)).result()
                except BaseException:
                    running.stop()
                    raise
                self._running = running

    def run(self, ask: Callable[[SessionClient], Coroutine[Any, Any, T]]) -> T:
        """Have the client do something, and wait until it is done."""
        self.open(wait=False)
        with self._lock:
            if self._running is None:
                raise ClientClosed("the client was closed")
            asked = self._running.start(ask)
        try:
            return asked.result()
        except CancelledError:
            raise ClientClosed("the client was closed") from None
        except BaseException:  # the caller's own: KeyboardInterrupt
            asked.cancel()
            raise

    def close(self) -> None:
        """End what is asked with ClientClosed, close the client, end the thread. Bounded in time."""
        with self._lock:
            running, self._running, self._ended = self._running, None, True
        if running is not None:
            running.stop()


class _Running:
    """The thread, and what runs in it."""

    def __init__(self, client: SessionClient) -> None:
        self._client = client
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, name="session-client", daemon=True)
        self._thread.start()

    def start(self, ask: Callable[[SessionClient], Coroutine[Any, Any, T]]) -> Future[T]:
        return asyncio.run_coroutine_threadsafe(ask(self._client), self._loop)

    def stop(self) -> None:
        """Close the client and end the thread; nothing may be started from now on."""
        self.start(self._end)
        if threading.current_thread() is not self._thread:
            self._thread.join(JOIN_SECONDS)

    def _serve(self) -> None:
        self._loop.run_forever()
        self._loop.close()

    async def _end(self, client: SessionClient) -> None:
        try:
            await client.close()
            if others := asyncio.all_tasks() - {asyncio.current_task()}:
                _, late = await asyncio.wait(others, timeout=END_SECONDS)
                if late and all(task.cancel() for task in late):
                    await asyncio.wait(late, timeout=END_SECONDS)
        finally:
            self._loop.call_soon(self._loop.stop)
