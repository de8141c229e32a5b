"""What a handler is, gets and may raise. It is your code: an async function, called once for each attempt.

    from session_worker import Context, Rejected

    async def handle(request: CreateSessionRequest, context: Context) -> dict | None:
        if not await quota_left(request.user_id):
            raise Rejected("no sessions left for this month", code="quota")
        return {"region": "eu-1"}          # merged into the answer's metadata

If it returns, the session is created. If it raises :class:`Rejected`, that is an answer, not a failure.
Anything else that it raises is a failure, and is tried again. What it does outside the ledger's database is
done at least once: use ``context.request_id`` as the idempotency key.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from session_contracts import CreateSessionRequest

if TYPE_CHECKING:
    from datetime import datetime
    from uuid import UUID


@dataclass(frozen=True, slots=True)
class Context:
    """What the handler is told beside the request."""

    session_id: str
    """The id of the session to be created; the same in every attempt."""
    request_id: UUID
    """The idempotency key for effects elsewhere."""
    attempt: int
    """Counts from 1; the immediate retries of one attempt share a number."""
    deadline: datetime
    """When this attempt is cut off (UTC)."""


class PermanentError(Exception):
    """To try again would give the same result. Base of everything a handler can raise that is not retried."""


class Rejected(PermanentError):  # noqa: N818 - an answer, not an error
    """The business answer no: ``message`` for the requester, ``code`` for ``metadata.rejection_code``."""

    message = "rejected"
    code: str | None = None

    def __init__(self, message: str, *, code: str | None = None) -> None:
        super().__init__(message)
        self.message = str(message)
        self.code = None if code is None else str(code)


Handler = Callable[[CreateSessionRequest, Context], Awaitable[dict[str, Any] | None]]
