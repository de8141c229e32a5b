"""Finding the user's app or hook: what does not work is said in a sentence that names the setting's value."""

import functools
import re
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from session_contracts import CreateSessionRequest
from session_worker.operations.app import App
from session_worker.operations.errors import AppError
from session_worker.operations.handler import Context, Rejected
from session_worker.operations.loading import load, load_app, load_hook

MODULE = "handlers_under_test"
SOURCE = """
import functools

async def good(request, context): ...
async def spare(request, context, more=None): ...
async def anything(*args, **kwargs): ...
async def one(request): ...
async def three(request, context, more): ...
async def named(*, request, context): ...
async def stream(request, context):
    yield 1
def plain(request, context): ...

number = 7
nothing = None
whole = functools.partial(three, more=1)
half = functools.partial(three, 1, 2)

class Outer:
    class Inner:
        @staticmethod
        async def good(request, context): ...
    async def unbound(self, request, context): ...

class Callable:
    def __init__(self, base=0): ...
    async def __call__(self, request, context): ...

bound = Outer().unbound
callable_object = Callable()

from session_worker import App
app = App()
"""


@pytest.fixture(autouse=True)
def _modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Modules of a user, and none of them left afterwards."""
    (tmp_path / f"{MODULE}.py").write_text(SOURCE)
    (tmp_path / "raises_at_import.py").write_text("raise ValueError('no key given')")
    (tmp_path / "leaves_at_import.py").write_text("import sys\nsys.exit('usage: tool FILE')")
    (tmp_path / "broken_at_import.py").write_text("def handle(:")
    (tmp_path / "imports_missing.py").write_text("import a_module_that_is_missing")
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        del sys.modules[name]


@pytest.mark.parametrize(
    "name",
    ["good", "spare", "anything", "Outer.Inner.good", "whole", "bound", "callable_object"],
)
def test_async_function_of_request_and_context_is_found(name: str) -> None:
    handler: Any = load(hook=f"{MODULE}:{name}").bindings[0].handler
    target: Any = sys.modules[MODULE]
    for part in name.split("."):
        target = getattr(target, part)
    assert handler == target


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("no_such_module:handle", "no_such_module cannot be imported"),
        (f"{MODULE}.sub:handle", "cannot be imported"),
        ("raises_at_import:handle", "ValueError: no key given"),
        ("leaves_at_import:handle", "SystemExit: usage: tool FILE"),
        ("broken_at_import:handle", "SyntaxError"),
        ("imports_missing:handle", "a_module_that_is_missing"),
        (f"{MODULE}:absent", "has no absent"),
        (f"{MODULE}:Outer.absent.good", "has no Outer.absent.good"),
        (f"{MODULE}:nothing", "has no nothing"),
        (f"{MODULE}:number", "int is not a function"),
        (f"{MODULE}:stream", "stream yields; have it return its result"),
        (f"{MODULE}:Callable", "Callable is a class; give an object of it"),
        (f"{MODULE}:app", f"this is an App; run it as `session-worker run {MODULE}:app`"),
        (f"{MODULE}:one", "must take two arguments, (request, context), but is one(request)"),
        (f"{MODULE}:three", "must take two arguments"),
        (f"{MODULE}:named", "must take two arguments"),
        (f"{MODULE}:half", "must take two arguments"),
        (f"{MODULE}:Outer.unbound", "must take two arguments"),
    ],
)
def test_a_path_to_no_handler_is_reported_with_the_reason(path: str, reason: str) -> None:
    with pytest.raises(AppError) as refused:
        load_hook(path)
    assert str(refused.value).startswith(f"handler {path}: ")
    assert reason in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("code", "place"),
    [
        ("\nnot_there", ", in first.py:2)"),
        ("import second", ", in second.py:1)"),
        ("import json\njson.loads('x')", ", in first.py:2)"),  # not in json
        ("import absent", ", in first.py:1)"),
        ("(", "(first.py, line 1))"),
    ],
)
def test_the_place_in_ones_own_code_is_named_where_an_import_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, place: str
) -> None:
    (tmp_path / "first.py").write_text(code)
    (tmp_path / "second.py").write_text("1 / 0")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("first", "second"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    with pytest.raises(AppError) as refused:
        load_app("first:app")
    assert str(refused.value).endswith(place)


def test_a_module_that_is_not_there_has_no_place() -> None:
    with pytest.raises(AppError, match=r"No module named 'no_such_module'\)$"):
        load_app("no_such_module:app")


async def test_plain_function_is_called_in_a_thread() -> None:
    def plain(request: object, context: object) -> dict[str, Any]:
        return {"thread": threading.get_ident()}

    app = App()
    app.on_create_session(plain)
    result = await app.bindings[0].handler(None, cast("Context", None))
    assert result["thread"] != threading.get_ident()


async def test_what_a_plain_function_leaves_to_be_awaited_is_awaited() -> None:
    """Such is a decorator around an async function."""

    async def work(request: object, context: object) -> dict[str, Any]:
        return {"request": request}

    app = App()
    app.on_create_session(lambda request, context: work(request, context))
    assert await app.bindings[0].handler("it", cast("Context", None)) == {"request": "it"}


async def test_a_plain_function_that_raises_stop_iteration_fails_at_once() -> None:
    """asyncio cannot tell it, and would wait for the thread until the attempt's time is up."""
    app = App()
    app.on_create_session(lambda *_: next(iter([])))
    with pytest.raises(RuntimeError, match="StopIteration"):
        await app.bindings[0].handler(None, cast("Context", None))


def test_app_is_found() -> None:
    assert load(f"{MODULE}:app") is sys.modules[MODULE].app


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        (f"{MODULE}:good", "this is a function, not an App; write `app = App()`, and name that"),
        (f"{MODULE}:absent", "has no absent"),
        ("broken_at_import:app", "SyntaxError"),
    ],
)
def test_a_path_to_no_app_is_reported_with_the_reason(path: str, reason: str) -> None:
    with pytest.raises(AppError, match=re.escape(reason)) as refused:
        load_app(path)
    assert str(refused.value).startswith(f"app {path}: ")


def test_without_an_app_only_what_is_built_in_is_served() -> None:
    names = [binding.operation.name for binding in load().bindings]
    assert names == ["create_session", "get_session", "list_sessions", "close_session"]


async def test_partial_is_called_with_what_was_bound() -> None:
    async def handle(greeting: str, request: CreateSessionRequest, context: Context) -> dict[str, Any]:
        return {"greeting": greeting}

    sys.modules[MODULE] = type(sys)(MODULE)
    sys.modules[MODULE].handle = functools.partial(handle, "hello")  # type: ignore[attr-defined]
    found: Any = load(hook=f"{MODULE}:handle").bindings[0].handler
    assert await found(None, None) == {"greeting": "hello"}


def test_rejection_keeps_message_and_code_as_text() -> None:
    message: Any = ValueError("no rooms")
    code: Any = 7
    assert Rejected(message, code=code).message == "no rooms"
    assert Rejected(message, code=code).code == "7"
    assert Rejected("no").code is None
