"""The demo's handler: lets every session be created, some of them only in the third attempt."""

from __future__ import annotations

from typing import TYPE_CHECKING

from session_worker.cli.demo.plan import FAILS_TWICE

if TYPE_CHECKING:
    from session_contracts import CreateSessionRequest
    from session_worker.operations.handler import Context


async def handle(request: CreateSessionRequest, context: Context) -> None:
    """Fail the first two attempts of a request with the title that asks for it."""
    if request.payload.title == FAILS_TWICE and context.attempt <= 2:
        raise ConnectionError(f"the demo lets attempt {context.attempt} fail")
