"""The requester's side: ``SessionClient``, ``SyncSessionClient`` and the errors their calls end with."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from session_client.client import SessionClient
    from session_client.errors import (
        ClientClosed,
        ConnectionFailed,
        ReplyInvalid,
        RequestFailed,
        RequestNotRouted,
        RequestTimedOut,
        SessionClientError,
    )
    from session_client.sync_client import SyncSessionClient

__all__ = [
    "ClientClosed",
    "ConnectionFailed",
    "ReplyInvalid",
    "RequestFailed",
    "RequestNotRouted",
    "RequestTimedOut",
    "SessionClient",
    "SessionClientError",
    "SyncSessionClient",
]


def __getattr__(name: str) -> Any:
    """Import what is public when it is first asked for: a worker that needs ``net`` loads no client."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from session_client import client, errors, sync_client

    modules = {"SessionClient": client, "SyncSessionClient": sync_client}
    return getattr(modules.get(name, errors), name)
