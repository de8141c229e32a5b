"""An app says at once, in a sentence, what of it cannot be served."""

import gc
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, RootModel

from session_contracts import CLOSE_SESSION, BaseRequest, Operation
from session_worker import App, AppError, Context, Operations


class Ask(BaseModel):
    minutes: int


class Told(BaseModel):
    minutes: int


class Opaque(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True)
    socket: object
    call: Callable[[], None]


EXTEND = Operation("extend_session", Ask, Told)
SHORTEN = Operation("shorten_session", Ask, Told)


async def extend(request: BaseRequest[Ask], context: Context) -> Told:
    return Told(minutes=request.payload.minutes)


def names(app: App[Any]) -> list[str]:
    return [binding.operation.name for binding in app.bindings]


def test_an_app_serves_its_operations_those_it_includes_and_the_built_in_ones() -> None:
    app, others = App(), Operations[None]()
    app.operation(EXTEND)(extend)
    others.operation(SHORTEN)(extend)
    app.include(others)
    assert names(app)[-2:] == ["extend_session", "shorten_session"]
    assert names(app)[:4] == ["create_session", "get_session", "list_sessions", "close_session"]


def test_one_hook_of_create_session_takes_the_built_in_ones_place() -> None:
    app = App()

    @app.on_create_session
    async def check(request: Any, context: Context) -> None: ...

    assert names(app).count("create_session") == 1
    assert app.bindings[0].creates_session
    assert app.bindings[0].handler is check
    with pytest.raises(AppError, match="create_session has two hooks; keep one of them"):
        app.on_create_session(check)


async def no_request(request, context: Context) -> Told:  # type: ignore[no-untyped-def]
    return Told(minutes=1)


async def no_result(request: BaseRequest[Ask], context: Context):  # type: ignore[no-untyped-def]
    return Told(minutes=1)


async def other_result(request: BaseRequest[Ask], context: Context) -> Ask:
    return request.payload


async def other_request(request: BaseRequest[Told], context: Context) -> Told:
    return request.payload


async def no_model(request: BaseRequest[Ask], context: Context) -> None: ...


async def payload_alone(request: Ask, context: Context) -> Told:
    return Told(minutes=request.minutes)


async def one(request: BaseRequest[Ask]) -> Told:
    return Told(minutes=1)


@pytest.mark.parametrize(
    ("handler", "reason"),
    [
        (no_request, "request has no annotation"),
        (no_result, "its result has no annotation"),
        (other_result, "returns Ask"),
        (no_model, "returns NoneType"),
        (other_request, "takes another request"),
        (payload_alone, "takes another request"),
        (one, "must take two arguments, (request, context)"),
        (7, "is not a function"),
        (App, "is a class"),
    ],
)
def test_a_handler_that_does_not_fit_its_operation_is_told(handler: Any, reason: str) -> None:
    with pytest.raises(AppError) as told:
        App().operation(EXTEND)(handler)
    assert reason in told.value.what
    assert "extend_session" in told.value.what
    assert told.value.fix


def test_two_handlers_of_one_operation_are_told() -> None:
    app = App()
    app.operation(EXTEND)(extend)
    with pytest.raises(AppError, match="extend_session has two handlers"):
        app.operation(Operation("extend_session", Ask, Told))(extend)
    others = Operations[None]()
    others.operation(EXTEND)(extend)
    with pytest.raises(AppError, match="extend_session has two handlers"):
        app.include(others)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"timeout": 0}, "timeout is 0; give more than 0"),
        ({"timeout": 1800}, "timeout is 1800"),
        ({"max_attempts": 0}, "max_attempts is 0; give a whole number, 1 to 1000"),
        ({"max_attempts": True}, "max_attempts is True"),
        ({"timeout": "5"}, "timeout is '5'"),
        ({"concurrency": 1.5}, "concurrency is 1.5"),
        ({"retry_delays": 5}, "retry_delays is 5"),
        ({"concurrency": 0}, "concurrency is 0"),
        ({"retry_delays": (5, 1)}, "the shortest first"),
        ({"retry_delays": (0.5,)}, "whole seconds"),
        ({"effects": "some"}, "effects is 'some'"),
    ],
)
def test_a_limit_out_of_range_is_told(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(AppError) as told:
        App().operation(EXTEND, **options)
    assert reason in str(told.value)


def test_an_operation_that_is_built_in_has_no_other_handler() -> None:
    with pytest.raises(AppError, match="close_session is built in; give an operation of your own"):
        App().operation(CLOSE_SESSION)


def test_models_that_cannot_be_json_are_told() -> None:
    app = App()

    def read(request: BaseRequest[Opaque], context: Context) -> Told:
        return Told(minutes=1)

    with pytest.raises(AppError, match="cannot be written as JSON"):
        app.operation(Operation("open_socket", Opaque, Told))(read)


@pytest.mark.parametrize(
    ("name", "payload", "reason"),
    [
        ("Extend", Ask, "a name is words of lower-case letters"),
        ("extend-session", Ask, "a name is words of lower-case letters"),
        ("x" * 65, Ask, "64 characters at most"),
        ("dead", Ask, "this name is reserved"),
        ("create", Ask, "this name is reserved"),
        ("extend", RootModel[list[int]], "must be a pydantic model with fields"),
        ("extend", dict, "must be a pydantic model with fields"),
    ],
)
def test_an_operation_that_cannot_be_is_told(name: str, payload: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as told:
        Operation(name, payload, Told)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("concurrency", [0, -1, 10_001, 1.5])
def test_a_limit_of_all_operations_together_out_of_range_is_told(concurrency: Any) -> None:
    with pytest.raises(AppError, match=r"the app's concurrency is .*; give a whole number, 1 to 10000"):
        App(concurrency=concurrency)


async def test_a_lifespan_gives_the_resources() -> None:
    entered: list[str] = []

    @asynccontextmanager
    async def resources() -> AsyncIterator[str]:
        entered.append("in")
        yield "the shop"
        entered.append("out")

    app = App(lifespan=resources)
    async with app.lifespan() as shop:
        assert shop == "the shop"
    assert entered == ["in", "out"]
    async with App().lifespan() as nothing:
        assert nothing is None
    with pytest.raises(AppError, match="an app that has a lifespan cannot be included"):
        App[str](lifespan=resources).include(app)


def test_a_lifespan_that_is_no_function_is_told() -> None:
    """Which is what it is when somebody writes ``App(lifespan=resources())``."""

    @asynccontextmanager
    async def resources() -> AsyncIterator[str]:
        yield "the shop"

    wrong: Any
    for wrong in (resources(), "resources"):
        with pytest.raises(AppError, match="not a function; give the function itself"):
            App(lifespan=wrong)


def test_a_lifespan_that_is_no_context_manager_is_told() -> None:
    """And nothing else is: Python's own warning of what was not awaited is an error in these tests."""

    async def coroutine() -> None: ...

    wrong: Any
    for wrong in (lambda: None, coroutine):
        with pytest.raises(AppError, match="decorate it with @asynccontextmanager"):
            App(lifespan=wrong).lifespan()
    gc.collect()
