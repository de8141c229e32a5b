"""Handlers that stop a whole process: the event loop while it runs, or the start while it is loaded."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from session_contracts import CreateSessionRequest
    from session_worker.operations.handler import Context


def _wait_for(file: str) -> None:
    while not Path(file).exists():
        time.sleep(0.02)


async def block(request: CreateSessionRequest, context: Context) -> dict[str, Any] | None:
    """Blocks the event loop until the file named by `gate` is there."""
    if isinstance(gate := request.metadata.get("gate"), str):
        _wait_for(gate)
    return None


if (loading := os.environ.get("TEST_LOADING")) is not None:
    Path(loading).touch()
    _wait_for(f"{loading}.go")
