"""A handler that does what a request's metadata says, and writes down every time it runs."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from session_worker.operations.handler import Context, PermanentError, Rejected

if TYPE_CHECKING:
    from session_contracts import CreateSessionRequest


RESULTS: dict[str, dict[str, Any]] = {
    "set": {"result": {1, 2, 3}, "object": object()},
    "large": {"result": "x" * 200_000},
    "merge": {"region": "eu-1", "attempts": "forged", "worker_id": None},
}


class BugError(PermanentError):
    """What trying again does not mend."""


async def scripted(request: CreateSessionRequest, context: Context) -> dict[str, Any] | None:
    """`fails`: attempts that fail; `gate`: a file to wait for; `thread`: the same in a thread; `nap`: seconds
    to sleep in a thread; `bug`: a file that makes it fail while it is there; `do`: see `_act`."""
    script = request.metadata
    _write_down(f"{context.request_id} {context.attempt}")
    if isinstance(gate := script.get("gate"), str):
        while not Path(gate).exists():
            await asyncio.sleep(0.02)
    if isinstance(gate := script.get("thread"), str):
        await asyncio.to_thread(_wait_for, gate)
    if "nap" in script:
        await asyncio.to_thread(time.sleep, float(str(script["nap"])))
    if context.attempt <= int(str(script.get("fails", 0))):
        raise RuntimeError(f"attempt {context.attempt} fails, as the request says")
    if isinstance(bug := script.get("bug"), str) and Path(bug).exists():
        raise BugError("the bug")
    return await _act(str(script.get("do", "")))


async def _act(what: str) -> dict[str, Any] | None:
    match what:
        case "reject":
            raise Rejected("the quota is spent", code="quota")
        case "exit":
            sys.exit("a library gave up")
        case "shout":
            raise RuntimeError("é" * 6000)
        case "cancel":
            raise asyncio.CancelledError
        case "hang":
            await asyncio.Event().wait()
        case "own thread":
            threading.Thread(target=time.sleep, args=[60]).start()
            await asyncio.Event().wait()
        case "stubborn":
            while True:
                with suppress(asyncio.CancelledError):
                    await asyncio.Event().wait()
        case "block":
            time.sleep(4)  # the event loop stands still, as under a careless handler
    return RESULTS.get(what)


def _wait_for(file: str) -> None:
    while not Path(file).exists():
        time.sleep(0.02)


def _write_down(line: str) -> None:
    file = os.open(os.environ["TEST_RUNS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(file, f"{line}\n".encode())
    finally:
        os.close(file)
