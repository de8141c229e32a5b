"""What a request's title makes its handler do: ``fail:2`` fails twice, ``slow:0.5`` takes half a second."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from typing import TYPE_CHECKING, Any

from session_worker.operations.handler import Context, PermanentError, Rejected

if TYPE_CHECKING:
    from session_contracts import CreateSessionRequest


async def handle(request: CreateSessionRequest, context: Context) -> dict[str, Any] | None:
    """Do as the title says; a title of another kind does nothing."""
    act, _, value = (request.payload.title or "").partition(":")
    match act:
        case "fail" if context.attempt <= int(value):
            raise RuntimeError(f"attempt {context.attempt} fails as it was told to")
        case "slow":
            await asyncio.sleep(float(value))
        case "reject":
            raise Rejected("no, as it was told to", code="told")
        case "permanent":
            raise PermanentError("for good, as it was told to")
        case "exit" if context.attempt == 1:
            sys.exit(3)
        case "exit-apart":
            await asyncio.create_task(_exit())
        case "stop-loop":
            asyncio.get_running_loop().stop()
            await asyncio.sleep(10)
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "nested":
            return {"given": {"title": request.payload.title, "attempt": context.attempt}}
    return None


async def _exit() -> None:
    sys.exit(0)
