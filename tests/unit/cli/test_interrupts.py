"""An interrupt is not mistaken for the error that it causes."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from session_worker.cli.interrupts import interruptible, run

if TYPE_CHECKING:
    from collections.abc import Coroutine


PROGRAM = """
import signal
from session_worker.cli import interrupts
signal.signal(signal.SIGINT, signal.{sigint})
signal.signal(signal.SIGHUP, signal.{sighup})
interrupts.listen()
signal.raise_signal(signal.{number})
"""


@pytest.mark.parametrize(
    ("number", "sigint", "sighup", "interrupted"),
    [
        ("SIGTERM", "default_int_handler", "SIG_DFL", True),
        ("SIGTERM", "SIG_IGN", "SIG_DFL", True),
        ("SIGHUP", "SIG_IGN", "SIG_DFL", True),
        ("SIGHUP", "SIG_IGN", "SIG_IGN", False),
    ],
)
def test_sigterm_interrupts_what_was_begun_in_the_background_too(
    number: str, sigint: str, sighup: str, interrupted: bool
) -> None:
    """A shell has SIGINT ignored there, and nohup SIGHUP."""
    program = PROGRAM.format(number=number, sigint=sigint, sighup=sighup)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)

    assert done.returncode == (-signal.SIGINT if interrupted else 0), done.stderr


async def test_a_cancellation_that_the_work_turns_into_an_error_stays_one() -> None:
    started = asyncio.Event()

    async def connecting() -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise ConnectionError("the connection was lost") from None

    task = asyncio.create_task(interruptible(connecting()))
    await started.wait()
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task


async def test_results_and_errors_come_through() -> None:
    async def work(error: Exception | None) -> int:
        if error is not None:
            raise error
        return 7

    assert await interruptible(work(None)) == 7
    with pytest.raises(ValueError, match="wrong"):
        await interruptible(work(ValueError("wrong")))


def test_an_interrupt_before_the_work_begins_is_an_interrupt() -> None:
    """A runner that is just setting itself up hands it on as a cancellation; nothing is left behind."""

    async def work() -> None: ...

    def interrupted(coro: Coroutine[Any, Any, Any]) -> None:
        coro.close()
        raise asyncio.CancelledError

    with pytest.raises(KeyboardInterrupt):
        run(cast("asyncio.Runner", SimpleNamespace(run=interrupted)), work())
