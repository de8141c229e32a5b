"""A request/reply worker for RabbitMQ that answers every request, once in effect."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from session_worker.operations.handler import Context, Rejected

__all__ = ["Context", "Rejected"]


def __getattr__(name: str) -> Any:
    """Import what is public when it is first asked for: the command line starts without it."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from session_worker.operations import handler

    return getattr(handler, name)
