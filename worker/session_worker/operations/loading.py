"""Find the handler that a setting names."""

from __future__ import annotations

import importlib
import inspect
from typing import TYPE_CHECKING, Any

from session_client.net.failures import in_one_line

if TYPE_CHECKING:
    from session_worker.operations.handler import Handler


class HandlerNotFoundError(Exception):
    """The setting does not lead to an async function of two arguments; the message says why."""


def load(path: str) -> Handler:
    """Return the handler at ``package.module:function``.

    Raises:
        HandlerNotFoundError: there is none; the message is a sentence for people.
    """
    module_name, _, name = path.partition(":")
    try:
        target: Any = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
        raise HandlerNotFoundError(
            f"handler {path}: module {module_name} cannot be imported ({in_one_line(error)})"
        ) from error
    for part in name.split("."):
        target = getattr(target, part, None)
    if target is None:
        raise HandlerNotFoundError(f"handler {path}: module {module_name} has no {name}")
    if not callable(target):
        raise HandlerNotFoundError(f"handler {path}: {name} is not a function")
    if not inspect.iscoroutinefunction(target):
        raise HandlerNotFoundError(f"handler {path}: write it as `async def {name}(request, context)`")
    try:
        inspect.signature(target).bind(None, None)
    except TypeError:
        raise HandlerNotFoundError(
            f"handler {path}: it must take two arguments, (request, context), "
            f"but is {name}{inspect.signature(target)}"
        ) from None
    return target  # type: ignore[no-any-return]
