"""What a handler returned, made fit to be part of a response."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pydantic
import pydantic_core

from session_contracts import problems
from session_contracts.types import JsonObject, flaw
from session_worker.operations.handler import PermanentError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic import BaseModel

    from session_worker.operations.binding import Binding

MAX_RESULT_BYTES = 65_536
OUR_FACTS = dict.fromkeys(("attempts", "worker_id", "processing_ms"))
"""What every response's metadata holds beside the handler's: it counts towards the limits, and wins."""
FACTS_OF_FAILURE = frozenset(("error_code", "retryable", "rejection_code"))
"""What the metadata of a completed response never holds, whatever the handler returns."""
_METADATA: pydantic.TypeAdapter[JsonObject] = pydantic.TypeAdapter(JsonObject)


class InvalidResultError(PermanentError):
    """What the handler returned cannot be part of a response."""


@dataclass(frozen=True, slots=True)
class Success:
    """The handler returned. ``payload``: its result, as ``to_json`` takes it; None where the response's
    payload is a session. ``metadata``: what it adds to the response, as plain JSON values."""

    payload: object
    metadata: dict[str, Any]


def read_result(binding: Binding, result: object) -> Success:
    """Return what the result of a handler becomes in the response.

    Raises:
        InvalidResultError: it does not fit there.
    """
    if binding.creates_session:
        return Success(None, _metadata(result))
    if binding.built_in:
        return Success(result, {})
    return Success(_payload(binding.operation.result, result), {})


def _payload(model: type[BaseModel], result: object) -> object:
    """Return a result as JSON values, those of the fields of its model alone. What a requester might not
    accept is not sent."""
    if not isinstance(result, model):
        raise InvalidResultError(f"the handler must return {model.__name__}, not {type(result).__name__}")
    try:
        plain = model.__pydantic_serializer__.to_python(result, mode="json", by_alias=True, warnings=False)
        if found := flaw(plain, max_values=None):
            path, rule = ".".join(map(str, found[0])), found[1]
            raise InvalidResultError(f"the handler's result does not fit into an answer: {path}: {rule}")
        model.model_validate_json(_bounded(pydantic_core.to_json(plain)))
    except pydantic.ValidationError as error:
        raise InvalidResultError(
            f"the handler's result is not what {model.__name__} accepts: {problems(error)}"
        ) from None
    except (ValueError, RecursionError) as error:
        raise InvalidResultError(f"the handler's result cannot be written as JSON: {error}"[:500]) from error
    return plain


def _metadata(result: object) -> dict[str, Any]:
    if result is None:
        return {}
    if not isinstance(result, dict) or not all(isinstance(key, str) for key in result):
        raise InvalidResultError(
            f"the handler must return None or a dict with string keys, not {type(result).__name__}"
        )
    try:
        data = pydantic_core.to_json(result)
        plain: dict[str, Any] = pydantic_core.from_json(data, allow_inf_nan=False)
        _METADATA.validate_python(plain | OUR_FACTS)
    except pydantic.ValidationError as error:
        rule = error.errors(include_url=False, include_input=False)[0]["msg"]
        raise InvalidResultError(f"the handler's result does not fit into an answer: it {rule}") from None
    except (ValueError, RecursionError) as error:
        raise InvalidResultError(f"the handler's result cannot be written as JSON: {error}"[:500]) from error
    _bounded(data)
    return plain


def _bounded(data: bytes) -> bytes:
    if len(data) > MAX_RESULT_BYTES:
        raise InvalidResultError(
            f"the handler's result takes {len(data)} bytes as JSON; at most {MAX_RESULT_BYTES} fit"
        )
    return data


def metadata_of_session(handler_metadata: Mapping[str, Any]) -> str:
    """Return what a session keeps of the handler's metadata: what stands in the response beside our facts."""
    kept = {
        name: fact
        for name, fact in handler_metadata.items()
        if name not in FACTS_OF_FAILURE and name not in OUR_FACTS
    }
    return pydantic_core.to_json(kept).decode()
