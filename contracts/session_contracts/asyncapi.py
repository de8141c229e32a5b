"""The contracts as JSON Schemas and as an AsyncAPI 3.0 document, for people and code generators."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic.json_schema import models_json_schema

from session_contracts.amqp import (
    CONTENT_TYPE,
    IDEMPOTENT_REPLAYED,
    REQUEST_ID,
    Names,
)
from session_contracts.operation import PublishedOperation, title_of
from session_contracts.sessions import BUILT_IN

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pydantic import BaseModel
    from pydantic.json_schema import JsonSchemaMode

    from session_contracts.operation import Operation

VERSION = "1.0.0"
"""The version of the contracts; the worker has its own."""


def schema(operation: Operation[Any, Any], of: Literal["request", "response"]) -> dict[str, Any]:
    """Return the JSON Schema of an operation's requests or responses."""
    if of == "request":
        return operation.request_model.model_json_schema()
    return operation.response_model.model_json_schema(mode=_response_mode(operation))


def _response_mode(operation: Operation[Any, Any]) -> JsonSchemaMode:
    """What is sent, but for published schemas: they say what a reader accepts."""
    return "validation" if isinstance(operation, PublishedOperation) else "serialization"


def document(names: Names, operations: Sequence[Operation[Any, Any]] = BUILT_IN) -> dict[str, Any]:
    """Describe the channels, operations (as the worker sees them), messages and schemas."""
    requests: list[tuple[type[BaseModel], JsonSchemaMode]] = [
        (operation.request_model, "validation") for operation in operations
    ]
    responses: list[tuple[type[BaseModel], JsonSchemaMode]] = [
        (operation.response_model, _response_mode(operation)) for operation in operations
    ]
    references, schemas = models_json_schema(
        [*requests, *responses], ref_template="#/components/schemas/{model}"
    )
    messages: dict[str, Any] = {}
    for operation, request, response in zip(operations, requests, responses, strict=True):
        words = operation.name.replace("_", " ")
        asked, answered = operation.request_type, operation.response_type
        messages[asked] = _message(asked, f"Ask: {words}.", _REQUEST_PROPERTIES, references[request])
        messages[answered] = _message(
            answered, f"How it ended: {words}.", _RESPONSE_PROPERTIES, references[response]
        )
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Session Worker",
            "version": VERSION,
            "description": "Send a request to its operation's channel; the answer comes to its reply_to.",
        },
        "defaultContentType": CONTENT_TYPE,
        "channels": {
            name: channel
            for operation in operations
            for name, channel in _channels(names.of(operation.key), operation).items()
        },
        "operations": {_camel_case(operation.name): _operation(names, operation) for operation in operations},
        "components": {"messages": messages, "schemas": schemas["$defs"]},
    }


def _operation(names: Names, operation: Operation[Any, Any]) -> dict[str, Any]:
    channel, reply = f"#/channels/{operation.key}", f"#/channels/{_reply_channel(operation)}"
    return {
        "action": "receive",
        "channel": {"$ref": channel},
        "messages": [{"$ref": f"{channel}/messages/{operation.request_type}"}],
        "reply": {
            "address": {
                "location": "$message.header#/reply_to",
                "description": f"The request's reply_to; {names.replies} when it names none.",
            },
            "channel": {"$ref": reply},
            "messages": [{"$ref": f"{reply}/messages/{operation.response_type}"}],
        },
    }


def _channels(names: Names, operation: Operation[Any, Any]) -> dict[str, Any]:
    asked, answered = operation.request_type, operation.response_type
    return {
        operation.key: {
            "address": names.routing_key,
            "description": f"Exchange {names.exchange}; sending to the queue {names.work} works as well.",
            "messages": {asked: {"$ref": f"#/components/messages/{asked}"}},
            "bindings": {
                "amqp": {
                    "is": "routingKey",
                    "exchange": {"name": names.exchange, "type": "topic", "durable": True},
                }
            },
        },
        _reply_channel(operation): {
            "address": None,
            "description": "The default exchange, with the requester's reply queue as routing key.",
            "messages": {answered: {"$ref": f"#/components/messages/{answered}"}},
        },
    }


def _reply_channel(operation: Operation[Any, Any]) -> str:
    return f"{operation.key}.reply"  # no key has a dot


def _camel_case(name: str) -> str:
    title = title_of(name)
    return title[0].lower() + title[1:]


_TEXT = {"type": "string"}
_PROPERTIES = {
    "content_type": _TEXT,
    "correlation_id": _TEXT,
    "message_id": _TEXT,
    "timestamp": {"type": "integer", "description": "Seconds since 1970."},
    "type": _TEXT,
    "traceparent": _TEXT,
}
_REQUEST_PROPERTIES = {
    "reply_to": _TEXT,
    "expiration": {"type": "string", "pattern": "^[0-9]+$", "description": "Time to live, in milliseconds."},
    REQUEST_ID: _TEXT,
} | _PROPERTIES
_RESPONSE_PROPERTIES = {
    IDEMPOTENT_REPLAYED: {"type": "boolean", "description": "Only on a stored answer that is sent again."}
} | _PROPERTIES


def _message(name: str, summary: str, properties: dict[str, Any], payload: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": name,
        "summary": summary,
        "contentType": CONTENT_TYPE,
        "headers": {
            "type": "object",
            "description": "AMQP properties and headers.",
            "properties": properties,
        },
        "bindings": {"amqp": {"messageType": name}},
        "correlationId": {"location": "$message.header#/correlation_id"},
        "payload": payload,
    }
