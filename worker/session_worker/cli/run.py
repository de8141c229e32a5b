"""The options of ``run``: one for each field of ``Settings``, with its name, default and description. The app
is an argument."""

from __future__ import annotations

import functools
import inspect
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import SecretStr

from session_worker import settings
from session_worker.settings import ALL, Settings

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

Reload = Annotated[
    bool,
    typer.Option(
        "--reload",
        help="Start the worker anew whenever a .py file in this folder changes. For developing; needs "
        "session-worker[reload].",
    ),
]
LONGEST_DEFAULT = 60
"""Characters of a default that ``--help`` shows; more would bury the rest."""


def default_text(field: FieldInfo) -> str:
    """A field's default as a person would type it."""
    default = field.default
    if field.default_factory is not None:
        return "sqlite:///…/ledger.db"
    if isinstance(default, SecretStr):
        return default.get_secret_value()
    if default is None:
        return "off"
    if isinstance(default, bool):
        return "on" if default else "off"
    if isinstance(default, tuple):
        return ",".join(str(part) for part in default) or ALL
    return f"{default:g}" if isinstance(default, float) else str(default)


def _parameter(name: str, field: FieldInfo) -> inspect.Parameter:
    if name == "app":
        argument = typer.Argument(help=field.description, metavar="APP", show_default=False)
        return inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[str | None, argument]
        )
    kind = type(field.default) if type(field.default) in (bool, int, float) else str
    default = default_text(field)
    shown = default if len(default) <= LONGEST_DEFAULT else "see docs/settings.md"
    option = typer.Option(help=f"{field.description}  [default: {shown}]", show_default=False)
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, option]
    )


@functools.cache
def command() -> Any:
    """The command that takes every setting as an option and runs the worker."""

    def run(*, reload: bool, **flags: object) -> None:
        loaded = settings.load(**flags)
        if reload:
            from session_worker.runtime import reloading

            sys.path.insert(0, str(Path.cwd()))
            raise typer.Exit(reloading.run(loaded))
        if loaded.processes > 1:
            from session_worker.runtime import supervisor

            raise typer.Exit(supervisor.run(loaded))
        from session_worker.runtime import process

        sys.path.insert(0, str(Path.cwd()))
        raise typer.Exit(process.run(loaded))

    parameters = [_parameter(name, field) for name, field in Settings.model_fields.items()]
    parameters.append(
        inspect.Parameter("reload", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Reload)
    )
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command()(run)
    return typer.main.get_command(app)
