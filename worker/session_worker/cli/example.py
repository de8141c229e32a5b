"""An example of what a model takes, for people to begin with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic import BaseModel

_TEXTS = {
    "date": "2026-01-31",
    "date-time": "2026-01-31T12:00:00Z",
    "email": "ada@example.com",
    "uuid": "01234567-89ab-7cde-8f01-23456789abcd",
}
"""An example of each format of text."""
_VALUES = {"integer": 1, "number": 1.5, "boolean": True}
_OF_SCHEMA = ("const", "default", "minimum")
"""What a schema may say that is a value itself."""


def example(model: type[BaseModel]) -> dict[str, Any]:
    """Return the fields that must be given, with values that the model names or that are made up: these may
    break rules of its own."""
    schema = model.model_json_schema()
    return _fields(schema, schema.get("$defs", {}))


def _fields(schema: dict[str, Any], known: dict[str, Any]) -> dict[str, Any]:
    return {name: _value(schema["properties"][name], known) for name in schema.get("required", ())}


def _value(schema: dict[str, Any], known: dict[str, Any]) -> Any:
    named = [*schema.get("examples", ()), *schema.get("enum", ())]
    named += [schema[name] for name in _OF_SCHEMA if name in schema]
    if named:
        return named[0]
    if "$ref" in schema:
        return _value(known[schema["$ref"].rpartition("/")[2]], known)
    for either in ("anyOf", "oneOf", "allOf"):
        if either in schema:
            return _value(schema[either][0], known)
    match schema.get("type"):
        case "object":
            return _fields(schema, known)
        case "array":
            return [_value(schema["items"], known)] * schema.get("minItems", 0)
        case "string":
            return _TEXTS.get(schema.get("format", ""), "text")
        case kind:
            return _VALUES.get(str(kind))
