"""Your code goes here: an async function that is called once for every attempt of a request.

    from worker.handlers import Context, Rejected

    async def handle(request: CreateSessionRequest, context: Context) -> dict | None:
        if not await quota_left(request.user_id):
            raise Rejected("no sessions left for this month", code="quota")
        return {"region": "eu-1"}          # merged into the answer's metadata

Returning lets the session be created. Raising :class:`Rejected` is an answer, not a failure. Anything else
that is raised is a failure, and tried again. What the function does outside the ledger's database is done at
least once: use ``context.request_id`` as the idempotency key.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from importlib.abc import MetaPathFinder
from importlib.machinery import PathFinder
from typing import TYPE_CHECKING, Any

from contracts import CreateSessionRequest
from contracts.trouble import words
from worker.retry import PermanentError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from uuid import UUID

__all__ = ["RESERVED", "Context", "Handler", "HandlerNotFoundError", "Rejected", "load", "look_in"]

RESERVED = ("client", "contracts", "worker")
"""Our own packages: one of a user's with such a name is never imported."""
OPTIONAL = ("opentelemetry", "uvloop")
"""What we import if it is installed: a user's module with such a name is not taken for it."""


@dataclass(frozen=True, slots=True)
class Context:
    """What the handler is told beside the request."""

    session_id: str
    """The id of the session to be created; the same in every attempt."""
    request_id: UUID
    """The idempotency key for effects elsewhere."""
    attempt: int
    """Counts from 1; the immediate retries of one attempt share a number."""
    deadline: datetime
    """When this attempt is cut off (UTC)."""


class Rejected(PermanentError):  # noqa: N818 - an answer, not an error
    """The business answer no: ``message`` for the requester, ``code`` for ``metadata.rejection_code``."""

    message = "rejected"
    code: str | None = None

    def __init__(self, message: str, *, code: str | None = None) -> None:
        super().__init__(message)
        self.message = str(message)
        self.code = None if code is None else str(code)


Handler = Callable[[CreateSessionRequest, Context], Awaitable[dict[str, Any] | None]]


class HandlerNotFoundError(Exception):
    """The handler setting does not lead to an async function of two arguments; the message says why."""


def look_in(folder: str) -> None:
    """Find handlers in ``folder`` too, after everything else: what lies there shadows nothing."""
    sys.meta_path.append(_Folder(folder))


class _Folder(MetaPathFinder):
    """Finds modules that nobody else found. At the end of ``sys.path``, the folder's ``opentelemetry.py``
    would come before the installed packages of that name, which have no ``__init__.py``."""

    def __init__(self, folder: str) -> None:
        self._folder = folder

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if path is not None or name in RESERVED or name in OPTIONAL:
            return None
        return PathFinder.find_spec(name, [self._folder], target)


def load(path: str) -> Handler:
    """The handler at ``package.module:function``.

    Raises:
        HandlerNotFoundError: with the reason, in a sentence.
    """
    module_name, _, name = path.partition(":")
    try:
        target: Any = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError):
            _check_name(path)
        raise HandlerNotFoundError(
            f"handler {path}: module {module_name} cannot be imported ({words(error)})"
        ) from error
    for part in name.split("."):
        target = getattr(target, part, None)
    if target is None:
        _check_name(path)
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


def _check_name(path: str) -> None:
    """What was not found may be in a package that could not even be looked at."""
    name, _, rest = path.replace(":", ".", 1).partition(".")
    if name in RESERVED:
        raise HandlerNotFoundError(
            f"handler {path}: {name} is the name of a package of Session Worker, which has no {rest}; a "
            "package of yours with that name is never imported: rename it"
        )
