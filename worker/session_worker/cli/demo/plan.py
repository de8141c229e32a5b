"""What the demo sends, and what must come of it."""

from __future__ import annotations

from dataclasses import dataclass, field

from session_contracts import ErrorCode, RequestStatus

FAILS_TWICE = "Fails twice"
"""The title by which the demo's handler knows the requests that it makes fail at first."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How many messages of each kind; together ``count``."""

    count: int

    @property
    def failing_twice(self) -> int:
        """Requests whose first two attempts fail."""
        return self.count // 20

    @property
    def thrice(self) -> int:
        """Requests sent three times: twice at once, and again when both are answered."""
        return self.count // 20

    @property
    def conflicts(self) -> int:
        """Requests that bear an id used before for another one."""
        return self.count // 50

    @property
    def unreadable(self) -> int:
        """Messages that are no JSON."""
        return self.count // 50

    @property
    def plain(self) -> int:
        """All others."""
        return self.count - self.failing_twice - 3 * self.thrice - self.conflicts - self.unreadable

    @property
    def sessions(self) -> int:
        return self.plain + self.failing_twice + self.thrice

    def expected(self) -> Counts:
        """What must be counted in the end."""
        return Counts(
            sent=self.count,
            answered={
                RequestStatus.COMPLETED.value: self.sessions + 2 * self.thrice,
                f"failed: {ErrorCode.IDEMPOTENCY_CONFLICT}": self.conflicts,
                f"failed: {ErrorCode.UNREADABLE}": self.unreadable,
            },
            replayed=2 * self.thrice,
            same_bytes=self.thrice,
            retried=self.failing_twice,
            session_ids=self.sessions,
            sessions=self.sessions,
        )


@dataclass(slots=True)
class Counts:
    """What was counted: on the wire, and afterwards in the ledger."""

    sent: int = 0
    answered: dict[str, int] = field(default_factory=dict)
    """By ``completed``, ``failed: <code>`` or ``no answer: <why>``."""
    replayed: int = 0
    """Answers that came with the header that says so."""
    same_bytes: int = 0
    """Requests sent three times whose three answers are one, byte for byte."""
    retried: int = 0
    """Requests completed in the third attempt."""
    session_ids: int = 0
    """Different session ids in the answers."""
    sessions: int = 0
    """Rows in ``sessions`` that were not there before."""

    def count(self, kind: str) -> None:
        self.answered[kind] = self.answered.get(kind, 0) + 1

    def rows(self) -> dict[str, int]:
        """Every count under the name people read."""
        return {
            "messages sent": self.sent,
            **self.answered,
            "replayed, not done again": self.replayed,
            "three answers, equal bytes": self.same_bytes,
            "completed in attempt 3": self.retried,
            "session ids in the answers": self.session_ids,
            "sessions in the ledger": self.sessions,
        }
