"""A request/reply worker for RabbitMQ that answers every request, once in effect."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from session_worker.operations.app import App, Operations
    from session_worker.operations.errors import AppError
    from session_worker.operations.handler import Context, Rejected, RetryLater

__all__ = ["App", "AppError", "Context", "Operations", "Rejected", "RetryLater"]

_HOMES = {
    "App": "app",
    "AppError": "errors",
    "Context": "handler",
    "Operations": "app",
    "Rejected": "handler",
    "RetryLater": "handler",
}


def __getattr__(name: str) -> Any:
    """Import what is public when it is first asked for: the command line starts without it."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"session_worker.operations.{_HOMES[name]}"), name)
