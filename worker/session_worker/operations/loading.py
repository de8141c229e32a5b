"""Find the app, or the hook of ``create_session``, that a setting names."""

from __future__ import annotations

import importlib
import traceback
from pathlib import Path
from typing import Any

from session_client.net.failures import in_one_line
from session_worker.operations.app import App
from session_worker.operations.errors import AppError


def load(app: str | None = None, hook: str | None = None) -> App[Any]:
    """Return the app that the settings name: one of the user's, one around a hook of ``create_session``, or
    one with the built-in operations only.

    Raises:
        AppError: there is none, or it cannot be served.
    """
    if app is not None:
        return load_app(app)
    return App() if hook is None else load_hook(hook)


def load_app(path: str) -> App[Any]:
    """Return the app at ``package.module:name``.

    Raises:
        AppError: there is none, or it cannot be served.
    """
    found = _find(path, "app")
    if not isinstance(found, App):
        raise AppError(
            f"app {path}: this is {_kind(found)}, not an App", "write `app = App()`, and name that"
        )
    return found


def load_hook(path: str) -> App[Any]:
    """Return an app whose hook of ``create_session`` is the function at ``package.module:name``.

    Raises:
        AppError: there is none, or it cannot be called as a hook.
    """
    found = _find(path, "handler")
    if isinstance(found, App):
        raise AppError(f"handler {path}: this is an App", f"run it as `session-worker run {path}`")
    app = App()
    try:
        app.on_create_session(found)
    except AppError as error:
        raise AppError(f"handler {path}: {error.what.partition(': ')[2]}", error.fix) from error
    return app


def _find(path: str, role: str) -> Any:
    module_name, _, name = path.partition(":")
    try:
        found: Any = importlib.import_module(module_name)
    except AppError as error:
        raise AppError(f"{role} {path}: {error.what}", error.fix) from error
    except (Exception, SystemExit) as error:
        why = f"{in_one_line(error)}{_place(error)}"
        raise AppError(f"{role} {path}: module {module_name} cannot be imported ({why})") from error
    for part in name.split("."):
        found = getattr(found, part, None)
    if found is None:
        raise AppError(f"{role} {path}: module {module_name} has no {name}")
    return found


def _place(error: BaseException) -> str:
    """Where in the user's code an import failed: in this folder, or else where the error was raised."""
    if isinstance(error, SyntaxError):  # it says so itself
        return ""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename not in {__file__, importlib.__file__} and not frame.filename.startswith("<frozen ")
    ]
    here = Path.cwd()
    own = [
        frame
        for frame in frames
        if Path(frame.filename).is_relative_to(here) and "site-packages" not in frame.filename
    ]
    for frame in reversed(own or frames):
        file = Path(frame.filename)
        return f", in {file.relative_to(here) if own else file}:{frame.lineno}"
    return ""


def _kind(found: object) -> str:
    return f"the class {found.__name__}" if isinstance(found, type) else f"a {type(found).__name__}"
