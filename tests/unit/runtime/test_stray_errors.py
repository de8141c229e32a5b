"""What the worker's event loop must not complain of."""

from __future__ import annotations

import asyncio
import gc
import socket
import threading
from typing import Any

import asyncpg
import pytest

from session_worker.loop import new_event_loop


def test_a_lookup_that_fails_after_its_time_limit_is_no_unexpected_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The limit has told the reason. uvloop's own lookup would go on, and its failure be found by nobody."""
    complaints: list[dict[str, Any]] = []
    asked, given_up, failed = threading.Event(), threading.Event(), threading.Event()

    def fail(*_: object, **__: object) -> None:
        asked.set()
        given_up.wait(30)
        failed.set()
        raise socket.gaierror(-3, "Temporary failure in name resolution")

    async def give_up_early() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: complaints.append(context))
        with pytest.raises(TimeoutError):
            await asyncpg.connect("postgresql://ada:x@nowhere.invalid/ledger", timeout=0.05)
        given_up.set()
        if asked.is_set():
            while not failed.is_set():
                await asyncio.sleep(0.01)
        await asyncio.sleep(0)

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(give_up_early())
        gc.collect()
    assert asked.is_set()
    assert complaints == []
