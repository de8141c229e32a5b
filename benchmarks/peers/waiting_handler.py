"""Our handler that waits: as many seconds as the request's title says."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from session_contracts import CreateSessionRequest
    from session_worker.operations.handler import Context


async def wait(request: CreateSessionRequest, context: Context) -> None:  # noqa: ARG001 -- the signature asked for
    assert request.payload.title is not None
    await asyncio.sleep(float(request.payload.title))
