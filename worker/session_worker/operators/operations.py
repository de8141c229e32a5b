"""The operations that an operator's command is about."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from session_contracts import Operation
from session_worker.operations import loading

if TYPE_CHECKING:
    from session_worker.operations.binding import Binding
    from session_worker.settings import Settings


class AnyObject(BaseModel):
    """The payload of an operation whose models are not at hand: any JSON object."""

    model_config = ConfigDict(extra="allow", frozen=True)


def bindings(settings: Settings) -> tuple[Binding, ...]:
    """What a worker of the settings' app serves: the built-in operations, and the app's own.

    Raises:
        AppError: the app cannot be loaded.
    """
    app: str | None = getattr(settings, "app", None)
    if app is not None and (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    return loading.load(app).bindings


def operations(settings: Settings, only: str | None = None) -> tuple[Operation[Any, Any], ...]:
    """All of them, or ``only`` the one of that name, known or not. What is unknown takes any payload: its
    queues follow from its name, and so do the fingerprints of its requests, since those of users' operations
    never depend on a model.

    Raises:
        AppError: the app cannot be loaded.
        ValueError: no operation can have that name; a sentence.
    """
    known = {binding.operation.name: binding.operation for binding in bindings(settings)}
    if only is None:
        return tuple(known.values())
    return (known.get(only) or Operation(only, AnyObject, AnyObject),)
