"""What operators can ask a ledger, what they see, and the SQL that finds it in either database."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Protocol

from session_contracts import RequestStatus
from session_worker.messages.immutable import immutable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime
    from uuid import UUID


@immutable
class Entry:
    """One row of ``requests`` as people and programs see it (``status --json``, ``requests --json``)."""

    request_id: UUID
    status: RequestStatus
    attempt: int
    operation: str
    session_id: str | None
    """The session that it created or is to create, or else the one that it names."""
    user_id: str
    casefile_id: str | None
    title: str | None
    error_code: str | None
    error: str | None
    reply: Literal["sent", "undeliverable"] | None
    received_at: datetime
    updated_at: datetime
    finished_at: datetime | None
    next_attempt_at: datetime | None
    history: Sequence[dict[str, Any]]
    """Each: ``{"status", "at" (ISO 8601), "attempt", "worker_id", "detail"}``."""

    @property
    def reason(self) -> str:
        """Why it failed or waits: what operators are told, else what the requester was; or nothing."""
        if self.status == "completed":
            return ""
        return (self.history[-1]["detail"] if self.history else None) or self.error or ""


@immutable
class Glimpse:
    """One request in short. Seconds by the ledger's clock: ``age`` since its first claim, ``took`` from then
    to its outcome. ``redriven``: an operator has re-opened it in between."""

    request_id: UUID
    status: RequestStatus
    age: float
    took: float | None
    error_code: str | None = None
    redriven: bool = False


@immutable
class Recent:
    """Current activity. ``newest``: the requests received last. ``troubled``: those received last that
    failed, or whose last attempt did. ``waiting``: how many wait for their next attempt, or were handed back.
    ``workers``: the ids of those alive."""

    newest: Sequence[Glimpse]
    troubled: Sequence[Glimpse]
    waiting: int
    workers: Sequence[str]


class LedgerReader(Protocol):
    """Answers the questions of operators. It registers nothing and writes nothing."""

    async def open(self) -> None:
        """Raises LedgerError like ``Ledger.open``; also when the schema is not there or not this version."""

    async def close(self) -> None: ...

    async def get(self, request_id: UUID) -> Entry | None: ...

    async def get_by_session(self, session_id: str) -> Entry | None:
        """The entry of the request that created a session."""

    async def find(
        self,
        *,
        status: RequestStatus | None = None,
        since: float | None = None,
        user_id: str | None = None,
        error_code: str | None = None,
        operation: str | None = None,
        undeliverable: bool = False,
        limit: int = 50,
    ) -> list[Entry]:
        """The entries to which all that is given applies, the newest first. ``since``: in seconds before now,
        by ``received_at``. ``error_code``: why it failed, or its last attempt did. ``undeliverable``: so was
        its reply."""

    async def identity(self) -> str:
        """See ``Opened``."""

    async def count_sessions(self) -> int: ...

    async def recent(self, *, since: float, limit: int) -> Recent:
        """What happens now, cheap enough for once a second. ``newest`` and ``troubled`` are at most ``limit``
        requests each, received in the last ``since`` seconds, the newest first."""


OF_SESSION = "WHERE request_id = (SELECT request_id FROM sessions WHERE session_id = {})"
"""The SQL that finds the entry of a session, whose id is to be bound in the braces."""


def condition(status: RequestStatus | None) -> str:
    """The SQL that finds entries of ``status`` among the others, in every ledger's reader."""
    if status is None:
        return ""
    # Some are found by an index of few entries: what failed has an error code, what waits has no holder.
    indexed = {
        RequestStatus.FAILED: "AND error_code IS NOT NULL",
        RequestStatus.PENDING: "AND holder IS NULL",
    }
    return f"AND status = '{RequestStatus(status)}' {indexed.get(status, '')}"


def matching(
    bind: Callable[[object], str],
    *,
    status: RequestStatus | None,
    user_id: str | None,
    error_code: str | None,
    operation: str | None,
    undeliverable: bool,
) -> str:
    """The SQL that finds entries to which all of these apply. ``bind`` takes a value, and returns what stands
    for it in the SQL."""
    wanted = {"user_id": user_id, "error_code": error_code, "operation": operation}
    terms = [f"AND {column} = {bind(value)}" for column, value in wanted.items() if value is not None]
    return " ".join([condition(status), *terms, "AND reply = 'undeliverable'" if undeliverable else ""])
