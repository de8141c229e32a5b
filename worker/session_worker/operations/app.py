"""An app: the operations that a worker serves beside the built-in ones, and the resources that they share."""

from __future__ import annotations

import inspect
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

from pydantic import BaseModel

from session_contracts.operation import PublishedOperation
from session_worker.operations import built_in
from session_worker.operations.binding import (
    MAX_CONCURRENCY,
    Binding,
    asked_limits,
    callable_handler,
    check_annotations,
    check_models,
    is_whole,
)
from session_worker.operations.errors import AppError
from session_worker.operations.handler import T

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from session_contracts import Operation
    from session_worker.operations.binding import Effects
    from session_worker.operations.handler import CreateSessionHook, Handler

P = TypeVar("P", bound=BaseModel)
R = TypeVar("R", bound=BaseModel)


class Operations(Generic[T]):
    """Operations and their handlers, for an app to include. ``T`` is what its lifespan makes."""

    def __init__(self) -> None:
        self._bindings: dict[str, Binding] = {}

    def operation(
        self,
        operation: Operation[P, R],
        *,
        effects: Effects = "handler",
        timeout: float | None = None,
        max_attempts: int | None = None,
        concurrency: int | None = None,
        retry_delays: Sequence[int] | None = None,
        needs_session: bool = False,
    ) -> Callable[[Handler[P, T, R]], Handler[P, T, R]]:
        """Have the decorated function carry out ``operation``.

        Args:
            effects: ``"none"`` for a handler that only reads: nothing is written for its requests, and each
                delivery is answered from what is true then.
            timeout: seconds for an attempt, its immediate retries included.
            max_attempts: attempts after which a request is answered ``failed`` and parked.
            concurrency: requests handled at a time, also the prefetch count.
            retry_delays: whole seconds between attempts; each has a queue of its own.
            needs_session: a request must name an open session of its requester's in ``session_id``.

        What is not given is as the worker's settings say.

        Raises:
            AppError: the operation cannot be served so.
        """
        if isinstance(operation, PublishedOperation):
            raise AppError(
                f"operation {operation.name} is built in",
                "give an operation of your own another name; `app.on_create_session` is asked before a "
                "session is created",
            )
        if effects not in {"handler", "none"}:
            raise AppError(f"operation {operation.name}: effects is {effects!r}", 'give "handler" or "none"')
        asked = asked_limits(
            operation.name,
            timeout=timeout,
            max_attempts=max_attempts,
            concurrency=concurrency,
            retry_delays=retry_delays,
        )

        def bind(handler: Handler[P, T, R]) -> Handler[P, T, R]:
            name = getattr(handler, "__name__", type(handler).__name__)
            example = f"`async def {name}(request, context)`"
            called = callable_handler(handler, f"operation {operation.name}: {name}", example=example)
            check_annotations(handler, operation)
            check_models(operation)
            self._add(Binding(operation, called, effects, asked, needs_session=needs_session))
            return handler

        return bind

    def on_create_session(self, hook: CreateSessionHook[T]) -> CreateSessionHook[T]:
        """Ask the decorated function before a session is created; what it returns goes into the metadata.

        Raises:
            AppError: there is such a function already, or it cannot be called so.
        """
        called = callable_handler(
            hook,
            f"hook of create_session: {getattr(hook, '__name__', type(hook).__name__)}",
            example="`async def check(request, context)`",
        )
        self._add(replace(built_in.CREATE, handler=called, built_in=False))
        return hook

    def include(self, others: Operations[T] | Operations[None]) -> None:
        """Serve the operations of another module too.

        Raises:
            AppError: two operations have one name, or ``others`` is an app with resources of its own.
        """
        if isinstance(others, App) and others.has_lifespan:
            raise AppError(
                "an app that has a lifespan cannot be included", "make it `Operations()`, and use the app's"
            )
        for binding in others._bindings.values():  # noqa: SLF001 - of the same class
            self._add(binding)

    def _add(self, binding: Binding) -> None:
        name = binding.operation.name
        if name in self._bindings:
            what = "has two hooks" if binding.creates_session else "has two handlers"
            raise AppError(f"operation {name} {what}", "keep one of them")
        self._bindings[name] = binding


class App(Operations[T]):
    """What ``session-worker run package.module:app`` serves.

    Args:
        lifespan: a function that returns an async context manager. It is entered once in each process,
            before the first request, and left after the last one; what it gives is ``context.resources``.
        concurrency: attempts that run at a time in each process, of all operations together. Without it,
            only the limits of each operation hold.

    Raises:
        AppError: ``lifespan`` is no function, or ``concurrency`` is out of range.
    """

    @overload
    def __init__(self: App[None], *, concurrency: int | None = None) -> None: ...

    @overload
    def __init__(
        self, *, lifespan: Callable[[], AbstractAsyncContextManager[T]], concurrency: int | None = None
    ) -> None: ...

    def __init__(
        self,
        *,
        lifespan: Callable[[], AbstractAsyncContextManager[Any]] | None = None,
        concurrency: int | None = None,
    ) -> None:
        super().__init__()
        if concurrency is not None and not is_whole(concurrency, MAX_CONCURRENCY):
            raise AppError(f"the app's concurrency is {concurrency!r}", "give a whole number, 1 to 10000")
        self.concurrency = concurrency
        if isinstance(lifespan, AbstractAsyncContextManager) or not callable(lifespan or App):
            raise AppError(
                f"the app's lifespan is a {type(lifespan).__name__}, not a function",
                "give the function itself, not what it returns: `App(lifespan=resources)`",
            )
        self._lifespan = lifespan

    @property
    def has_lifespan(self) -> bool:
        return self._lifespan is not None

    @property
    def bindings(self) -> tuple[Binding, ...]:
        """All that it serves, the built-in operations first."""
        hooked = [self._bindings.get(each.operation.name, each) for each in built_in.BINDINGS]
        return (*hooked, *(each for each in self._bindings.values() if not each.creates_session))

    def lifespan(self) -> AbstractAsyncContextManager[Any]:
        """A block around all that one process does.

        Raises:
            AppError: the lifespan gives no async context manager.
        """
        if self._lifespan is None:
            return nullcontext()
        made: object = self._lifespan()
        if not isinstance(made, AbstractAsyncContextManager):
            if inspect.iscoroutine(made):
                made.close()  # else Python would complain, after our sentence, that nobody awaited it
            raise AppError(
                "the app's lifespan gives no async context manager", "decorate it with @asynccontextmanager"
            )
        return made
