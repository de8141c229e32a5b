"""What an event loop complains of that nobody waits for."""

from __future__ import annotations

import asyncio
import gc
import socket

import pytest
import structlog

from worker.process import _log_stray_error

uvloop = pytest.importorskip("uvloop")


def test_a_lookup_that_nobody_waits_for_any_more_is_no_unexpected_error() -> None:
    """uvloop lets it go on after its time limit, and it may fail then; the limit has told the reason."""
    found: list[dict[str, object]] = []

    async def give_up_early() -> None:
        loop = asyncio.get_running_loop()

        def judge(loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
            found.append(context)
            _log_stray_error(loop, context)

        loop.set_exception_handler(judge)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await loop.create_connection(asyncio.Protocol, "nowhere.invalid", 1)
        while not found:
            gc.collect()
            await asyncio.sleep(0.01)

    with (
        structlog.testing.capture_logs() as logged,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        runner.run(asyncio.wait_for(give_up_early(), 30))
    assert isinstance(found[0]["exception"], socket.gaierror)
    assert logged == []
