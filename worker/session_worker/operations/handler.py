"""What a handler gets and may raise. It is your code, called once for each attempt.

    app = App()

    @app.operation(EXTEND)
    async def extend(request: BaseRequest[ExtendSession], context: Context[None]) -> SessionExtended:
        if not await quota_left(request.user_id):
            raise Rejected("no sessions left for this month", code="quota")
        return SessionExtended(...)

If it raises :class:`Rejected`, that is an answer, not a failure. Anything else that it raises is a failure,
and is tried again. What it does outside the ledger's database is done at least once: use
``context.request_id`` as the idempotency key.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from pydantic import BaseModel

from session_contracts import BaseRequest, CreateSessionRequest, ErrorCode
from session_contracts.errors import ERRORS

if TYPE_CHECKING:
    from datetime import datetime
    from uuid import UUID

P = TypeVar("P", bound=BaseModel)
R = TypeVar("R", bound=BaseModel)
if TYPE_CHECKING:
    from typing_extensions import TypeVar as TypeVarWithDefault

    T = TypeVarWithDefault("T", default=Any)
else:
    T = TypeVar("T")  # a default is for type checkers; Python has it from 3.13 on
U = TypeVar("U")

LONGEST_WAIT = 86_400.0
"""Seconds that ``RetryLater`` may ask for."""


@dataclass(frozen=True, slots=True)
class Context(Generic[T]):
    """What the handler is told beside the request."""

    session_id: str | None
    """The session that the request names; for ``create_session`` the id of the one to be created, the same in
    every attempt."""
    request_id: UUID
    """The idempotency key for effects elsewhere."""
    attempt: int
    """Counts from 1; the immediate retries of one attempt share a number."""
    deadline: datetime
    """When this attempt is cut off (UTC)."""
    resources: T
    """What the app's lifespan made; None if it has none."""


class PermanentError(Exception):
    """To try again would give the same result. Base of everything a handler can raise that is not retried."""


class Rejected(PermanentError):  # noqa: N818 - an answer, not an error
    """The business answer no: ``message`` for the requester, ``code`` for ``metadata.rejection_code``."""

    error_code = ErrorCode.REJECTED
    message = "rejected"
    code: str | None = None

    def __init__(self, message: str, *, code: str | None = None) -> None:
        super().__init__(message)
        self.message = str(message)
        self.code = None if code is None else str(code)


class SessionUnavailable(Rejected):
    """The session that a request names is not there, not the requester's, or closed."""

    def __init__(self, code: ErrorCode) -> None:
        super().__init__(ERRORS[code].meaning)
        self.error_code = code


class RetryLater(Exception):  # noqa: N818 - a wish, not an error
    """This attempt came to nothing; make the next one in ``after`` seconds, if there is to be one.

    The attempt counts. ``reason`` is for the log and the history.

    Raises:
        ValueError: ``after`` is not more than 0 and at most ``LONGEST_WAIT`` seconds.
    """

    def __init__(self, reason: str = "the handler asked for another attempt", *, after: float) -> None:
        super().__init__(reason)
        if not 0 < after <= LONGEST_WAIT:
            raise ValueError(f"after: must be more than 0 and at most {LONGEST_WAIT:.0f} seconds")
        self.after = after


Handler = Callable[[BaseRequest[P], Context[U]], Awaitable[R] | R]
"""Carries out an operation; a plain function runs in a thread."""
CreateSessionHook = Callable[
    [CreateSessionRequest, Context[U]], Awaitable[dict[str, Any] | None] | dict[str, Any] | None
]
"""Is asked before a session is created; what it returns is merged into the response's metadata."""
AnyHandler = Callable[[Any, Context[Any]], Awaitable[Any]]
"""A handler or hook as the worker calls it."""
