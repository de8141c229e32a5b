"""The contracts as an AsyncAPI 3.0 document, for people and code generators."""

from __future__ import annotations

from typing import Any

from pydantic.json_schema import models_json_schema

from session_contracts.amqp import (
    CONTENT_TYPE,
    IDEMPOTENT_REPLAYED,
    REQUEST_ID,
    Names,
)
from session_contracts.sessions import CREATE_SESSION, CreateSessionRequest, CreateSessionResponse

REQUEST_TYPE, RESPONSE_TYPE = CREATE_SESSION.request_type, CREATE_SESSION.response_type
VERSION = "1.0.0"
"""The version of the contracts; the worker has its own."""


def document(names: Names) -> dict[str, Any]:
    """Describe the channels, operations (as the worker sees them), messages and schemas."""
    _, schemas = models_json_schema(
        [(CreateSessionRequest, "validation"), (CreateSessionResponse, "validation")],
        ref_template="#/components/schemas/{model}",
    )
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Session Worker",
            "version": VERSION,
            "description": "Send a request to create a session; the answer comes to its reply_to.",
        },
        "defaultContentType": CONTENT_TYPE,
        "channels": _channels(names),
        "operations": {
            "createSession": {
                "action": "receive",
                "channel": {"$ref": "#/channels/create"},
                "messages": [{"$ref": f"#/channels/create/messages/{REQUEST_TYPE}"}],
                "reply": {
                    "address": {
                        "location": "$message.header#/reply_to",
                        "description": f"The request's reply_to; {names.replies} when it names none.",
                    },
                    "channel": {"$ref": "#/channels/reply"},
                    "messages": [{"$ref": f"#/channels/reply/messages/{RESPONSE_TYPE}"}],
                },
            }
        },
        "components": {
            "messages": {
                REQUEST_TYPE: _message(REQUEST_TYPE, "Create a session.", _REQUEST_PROPERTIES),
                RESPONSE_TYPE: _message(RESPONSE_TYPE, "How it ended.", _RESPONSE_PROPERTIES),
            },
            "schemas": schemas["$defs"],
        },
    }


def _channels(names: Names) -> dict[str, Any]:
    return {
        "create": {
            "address": names.routing_key,
            "description": f"Exchange {names.exchange}; sending to the queue {names.work} works as well.",
            "messages": {REQUEST_TYPE: {"$ref": f"#/components/messages/{REQUEST_TYPE}"}},
            "bindings": {
                "amqp": {
                    "is": "routingKey",
                    "exchange": {"name": names.exchange, "type": "topic", "durable": True},
                }
            },
        },
        "reply": {
            "address": None,
            "description": "The default exchange, with the requester's reply queue as routing key.",
            "messages": {RESPONSE_TYPE: {"$ref": f"#/components/messages/{RESPONSE_TYPE}"}},
        },
    }


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


def _message(model: str, summary: str, properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": model,
        "summary": summary,
        "contentType": CONTENT_TYPE,
        "headers": {
            "type": "object",
            "description": "AMQP properties and headers.",
            "properties": properties,
        },
        "bindings": {"amqp": {"messageType": model}},
        "correlationId": {"location": "$message.header#/correlation_id"},
        "payload": {"$ref": f"#/components/schemas/{model}"},
    }
