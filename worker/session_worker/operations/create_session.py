"""The built-in handler: nothing stands in the way of the session."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from session_contracts import CreateSessionRequest
    from session_worker.operations.handler import Context


async def create_session(request: CreateSessionRequest, context: Context) -> None:
    """Let the session be created."""
