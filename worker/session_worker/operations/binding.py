"""What binds an operation to a worker: its handler, its limits, where its effects go."""

from __future__ import annotations

import asyncio
import inspect
import typing
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args, get_origin

from pydantic import BaseModel
from pydantic.errors import PydanticInvalidForJsonSchema, PydanticUserError

from session_contracts import BaseRequest
from session_worker.operations.errors import AppError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from session_contracts import Operation
    from session_worker.operations.handler import AnyHandler
    from session_worker.settings import Settings

MAX_CONCURRENCY = 10_000
Effects = Literal["handler", "none"]
"""Where the effects of an operation go: wherever its handler takes them, or nowhere (it reads)."""


class Limits(NamedTuple):
    """What an operation may take. ``timeout``: seconds for an attempt. ``concurrency``: requests at a time.
    ``retry_delays``: whole seconds between attempts."""

    timeout: float
    max_attempts: int
    concurrency: int
    retry_delays: tuple[int, ...]

    @classmethod
    def of(cls, settings: Settings) -> Limits:
        """The limits of an operation that states none."""
        return cls(
            settings.handler_timeout, settings.max_attempts, settings.concurrency, settings.retry_delays
        )


@dataclass(frozen=True, slots=True)
class Binding:
    """An operation as a worker serves it.

    ``asked``: the limits that it states itself. ``creates_session``: a session id is reserved for each
    request, stands in every response, and becomes a session when the request completes; the handler is a
    hook, whose result goes into the metadata. ``needs_session``: a request must name an open session of its
    requester's. ``built_in``: the handler is ours, and its resources are the ledger's sessions.
    """

    operation: Operation[Any, Any]
    handler: AnyHandler
    effects: Effects = "handler"
    asked: Mapping[str, Any] = field(default_factory=dict)
    creates_session: bool = False
    needs_session: bool = False
    built_in: bool = False

    @property
    def reads(self) -> bool:
        return self.effects == "none"

    def limits(self, defaults: Limits) -> Limits:
        """Its own limits, and the ``defaults`` for what it does not state."""
        return defaults._replace(**self.asked)


def asked_limits(
    name: str,
    *,
    timeout: float | None,
    max_attempts: int | None,
    concurrency: int | None,
    retry_delays: Sequence[int] | None,
) -> dict[str, Any]:
    """Check the limits that an operation states.

    Raises:
        AppError: one of them is out of range.
    """
    checks: tuple[tuple[str, Any, Callable[[Any], bool], str], ...] = (
        (
            "timeout",
            timeout,
            lambda value: isinstance(value, int | float) and 0 < value < 1800,
            "more than 0 and less than 1800 seconds",
        ),
        ("max_attempts", max_attempts, lambda value: is_whole(value, 1000), "a whole number, 1 to 1000"),
        (
            "concurrency",
            concurrency,
            lambda value: is_whole(value, MAX_CONCURRENCY),
            "a whole number, 1 to 10000",
        ),
        (
            "retry_delays",
            tuple(retry_delays) if isinstance(retry_delays, Iterable) else retry_delays,
            lambda value: (
                isinstance(value, tuple)
                and 1 <= len(value) <= 20
                and all(is_whole(delay, 86_400) for delay in value)
                and list(value) == sorted(set(value))
            ),
            "1 to 20 different whole seconds, 1 to 86400, the shortest first",
        ),
    )
    for field_name, value, is_good, rule in checks:
        if value is not None and not is_good(value):
            raise AppError(f"operation {name}: {field_name} is {value!r}", f"give {rule}")
    return {field_name: value for field_name, value, _, _ in checks if value is not None}


def is_whole(value: object, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= most


def callable_handler(handler: object, what: str, *, example: str) -> AnyHandler:
    """Return a handler as the worker calls it: an async function of two arguments. A plain one runs in a
    thread.

    Raises:
        AppError: it cannot be called so; ``what`` names it.
    """
    if not callable(handler):
        raise AppError(f"{what} is not a function", f"write {example}")
    if inspect.isclass(handler):
        raise AppError(f"{what} is a class", "give an object of it, or a function")
    call = handler if inspect.isroutine(handler) else getattr(handler, "func", None) or handler.__call__
    if inspect.isasyncgenfunction(call) or inspect.isgeneratorfunction(call):
        raise AppError(f"{what} yields", "have it return its result")
    try:
        signature = inspect.signature(handler)
        signature.bind(None, None)
    except TypeError:
        raise AppError(
            f"{what} must take two arguments, (request, context), but is {what.split()[-1]}{signature}",
            f"write {example}",
        ) from None
    except ValueError:
        pass  # a builtin without a signature
    if inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(call):
        return typing.cast("AnyHandler", handler)

    def call_it(request: Any, context: Any) -> Any:
        try:
            return handler(request, context)
        except StopIteration as error:  # asyncio would never hear of it
            raise RuntimeError("the handler raised StopIteration") from error

    async def in_thread(request: Any, context: Any) -> Any:
        result = await asyncio.to_thread(call_it, request, context)
        # A decorator around an async function may be a plain one.
        return await result if inspect.isawaitable(result) else result

    return in_thread


def check_annotations(handler: Callable[..., object], operation: Operation[Any, Any]) -> None:
    """Check that a handler says what it takes and returns, and that this is what the operation has.

    Raises:
        AppError: it does not.
    """
    call = handler if inspect.isroutine(handler) else handler.__call__  # type: ignore[operator]
    name = getattr(handler, "__qualname__", type(handler).__qualname__)
    wanted = (
        f"write it as `{name.split('.')[-1]}(request: BaseRequest[{operation.payload.__name__}], "
        f"context: Context[...]) -> {operation.result.__name__}`"
    )
    parameters = [
        each for each in inspect.signature(handler).parameters.values() if each.default is each.empty
    ]
    for parameter in parameters[:2]:
        if parameter.kind is parameter.POSITIONAL_OR_KEYWORD and parameter.annotation is parameter.empty:
            raise AppError(f"handler {name} of {operation.name}: {parameter.name} has no annotation", wanted)
    if "return" not in getattr(call, "__annotations__", {"return": None}):
        raise AppError(f"handler {name} of {operation.name}: its result has no annotation", wanted)
    try:
        hints = typing.get_type_hints(call)
    except Exception:  # noqa: BLE001 - a name that is only there for type checkers, who check it themselves
        return
    result, request = hints.get("return"), hints.get(parameters[0].name) if parameters else None
    if inspect.isclass(result) and not issubclass(result, operation.result):
        raise AppError(f"handler {name} of {operation.name} returns {result.__name__}", wanted)
    if _is_request_of_another(request, operation):
        raise AppError(f"handler {name} of {operation.name} takes another request", wanted)


def _is_request_of_another(request: object, operation: Operation[Any, Any]) -> bool:
    """Whether an annotation is another model than the operation's envelope: its payload alone, or an envelope
    with another one."""
    if inspect.isclass(request) and issubclass(request, BaseRequest):
        payload = request.model_fields["payload"].annotation
        return inspect.isclass(payload) and not issubclass(operation.payload, payload)
    if inspect.isclass(request) and issubclass(request, BaseModel):
        return True
    return get_origin(request) is BaseRequest and get_args(request)[0] is not operation.payload


def check_models(operation: Operation[Any, Any]) -> None:
    """Check that the models of an operation can be written as JSON Schemas.

    Raises:
        AppError: they cannot.
    """
    for model, mode in ((operation.request_model, "validation"), (operation.response_model, "serialization")):
        try:
            model.model_json_schema(mode=mode)  # type: ignore[arg-type]
        except (PydanticInvalidForJsonSchema, PydanticUserError) as error:
            raise AppError(
                f"operation {operation.name}: {model.__name__} cannot be written as JSON: "
                f"{str(error).splitlines()[0]}",
                "use types in its fields that JSON has",
            ) from error
