"""``schema``: the contracts as documents."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from session_contracts import CREATE_SESSION, Names, asyncapi
from session_worker.cli import command_settings, options, streams

if TYPE_CHECKING:
    from session_contracts import Operation
    from session_worker.settings import Settings


def schema(of: str, operation: str | None, **flags: str | None) -> None:
    """Print the JSON Schema of an operation's requests or responses, or an AsyncAPI document of all
    operations."""
    if of not in {"request", "response", "asyncapi"}:
        raise typer.BadParameter("write request, response or asyncapi.", param_hint="WHAT")
    loaded = command_settings.load_only(**flags)
    if of == "asyncapi":
        if operation is not None:
            raise typer.BadParameter("the document has all operations.", param_hint="--operation")
        document = asyncapi.document(Names(loaded.prefix), options.operations(loaded, None))
    else:
        document = asyncapi.schema(_known(loaded, operation), "request" if of == "request" else "response")
    streams.write_document(document, indent=2)


def _known(loaded: Settings, name: str | None) -> Operation[Any, Any]:
    """Raises typer.BadParameter: nobody here has the models of that operation."""
    if name is None:
        return CREATE_SESSION
    known = {operation.name: operation for operation in options.operations(loaded, None)}
    if name not in known:
        raise typer.BadParameter(
            f"it is one of {', '.join(known)}; --app names the app of another.", param_hint="--operation"
        )
    return known[name]
