"""``schema``: the contracts as documents."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from session_contracts import CreateSessionRequest, CreateSessionResponse, asyncapi
from session_contracts.amqp import Names
from session_worker.cli import command_settings, streams

if TYPE_CHECKING:
    from collections.abc import Callable


def schema(of: str, prefix: str | None) -> None:
    """Print the JSON Schema of a model, or an AsyncAPI document of all queues and messages."""
    documents: dict[str, Callable[[], dict[str, Any]]] = {
        "request": CreateSessionRequest.model_json_schema,
        "response": CreateSessionResponse.model_json_schema,
        "asyncapi": lambda: asyncapi.document(Names(command_settings.load_only(prefix=prefix).prefix)),
    }
    if of not in documents:
        raise typer.BadParameter("write request, response or asyncapi.", param_hint="WHAT")
    streams.write_document(documents[of](), indent=2)
