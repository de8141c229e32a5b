"""What can go wrong for a caller of the client.

SessionClientError
├── ConnectionFailed    the client could not start: broker unreachable, login refused, no such vhost
├── ClientClosed        the client was closed while the call waited, or before it
├── RequestNotRouted    the broker had no place for the request: no exchange, no worker's queue
├── RequestTimedOut     no reply in time; sending again with the same request id tells how it ended
├── RequestFailed       the worker's answer is no: its response says why
└── ReplyInvalid        a reply came that is not a final answer to the request

Wrong arguments raise ValueError before anything is sent. A call from another event loop than the client's
raises RuntimeError. No message holds a password.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from uuid import UUID

    from session_contracts import Response


class SessionClientError(Exception):
    """The root of the client's errors."""


class ConnectionFailed(SessionClientError):  # noqa: N818 - the tree reads as facts: it failed
    """The client could not start; the message names each broker tried and the reason."""


class ClientClosed(SessionClientError):  # noqa: N818
    """The client is closed. A request that was under way may still be carried out."""


class RequestNotRouted(SessionClientError):  # noqa: N818
    """The broker refused or returned the request, and had accepted no earlier copy of it from this call."""

    def __init__(self, request_id: UUID, reason: str) -> None:
        super().__init__(f"request {request_id} reached no worker's queue: {reason}")
        self.request_id = request_id


class RequestTimedOut(SessionClientError):  # noqa: N818
    """No reply in time. The request may be carried out all the same."""

    def __init__(self, request_id: UUID, timeout: float, obstacle: str | None = None) -> None:
        because = f" ({obstacle})" if obstacle else ""
        super().__init__(
            f"no reply to request {request_id} within {timeout:g} s{because}; "
            "send it again with this request id to learn how it ended"
        )
        self.request_id = request_id


class RequestFailed(SessionClientError):  # noqa: N818
    """The final answer is ``failed``; asking again with the same request id gets the same answer."""

    def __init__(self, response: Response[Any]) -> None:
        self.response = response
        super().__init__(f"request {response.request_id} failed: {response.error or 'no reason given'}")

    @property
    def code(self) -> str | None:
        """One of ``contracts.ErrorCode``, or a newer worker's code; None if the response has none."""
        code = self.response.metadata.get("error_code")
        return code if isinstance(code, str) else None

    @property
    def retryable(self) -> bool:
        """Whether the same content, sent as a *new* request, may succeed."""
        return self.response.metadata.get("retryable") is True


class ReplyInvalid(SessionClientError):  # noqa: N818
    """A reply that breaks the contract; the request may have been carried out."""

    def __init__(self, request_id: UUID, problem: str) -> None:
        super().__init__(f"the reply to request {request_id} is invalid: {problem}")
        self.request_id = request_id
