"""The requester's side: ``SessionClient`` and the errors its calls end with."""

from client.errors import (
    ClientClosed,
    ConnectionFailed,
    ReplyInvalid,
    RequestFailed,
    RequestNotRouted,
    RequestTimedOut,
    SessionClientError,
)
from client.session_client import SessionClient

__all__ = [
    "ClientClosed",
    "ConnectionFailed",
    "ReplyInvalid",
    "RequestFailed",
    "RequestNotRouted",
    "RequestTimedOut",
    "SessionClient",
    "SessionClientError",
]
