"""What is noted about a reply after its outcome was recorded."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Literal

from session_worker.messages.immutable import immutable

if TYPE_CHECKING:
    from collections.abc import Callable
    from uuid import UUID

LAZY = 0.25
"""Seconds that a note for which nobody waits may gather company: losing it costs one repeated reply."""


@immutable
class ReplyNote:
    """The reply was sent or cannot be delivered, or the request's copy is on the parking lot."""

    request_id: UUID
    token: UUID
    kind: Literal["sent", "undeliverable", "parked"]


class LazyReplyNotes:
    """Gathers what was sent and hands each over as one ReplyNote, ``LAZY`` seconds after the first."""

    def __init__(self, write: Callable[[ReplyNote], None]) -> None:
        self._write = write
        self._tokens: dict[UUID, UUID] = {}
        self._timer: asyncio.TimerHandle | None = None

    def sent(self, request_id: UUID, token: UUID) -> None:
        self._tokens[request_id] = token
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(LAZY, self.flush)

    def flush(self) -> None:
        """Hand over what has gathered, now."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        tokens, self._tokens = self._tokens, {}
        for request_id, token in tokens.items():
            self._write(ReplyNote(request_id, token, "sent"))
