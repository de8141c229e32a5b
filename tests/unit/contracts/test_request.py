"""The request as it is meant: defaults, tolerance, byte-stable JSON."""

import json
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import given
from jsonschema import Draft202012Validator
from pydantic import ValidationError

from session_contracts import CreateSessionPayload, CreateSessionRequest
from tests.unit.contracts.strategies import REQUESTS

SMALLEST = b'{"user_id": "ada@example.com", "payload": {}}'


@given(REQUESTS)
def test_request_round_trips_byte_for_byte(request: CreateSessionRequest) -> None:
    body = request.model_dump_json()
    assert CreateSessionRequest.model_validate_json(body).model_dump_json() == body


@given(REQUESTS)
def test_every_request_satisfies_its_own_schema(request: CreateSessionRequest) -> None:
    Draft202012Validator(CreateSessionRequest.model_json_schema()).validate(
        json.loads(request.model_dump_json())
    )


def test_field_names_and_required_ones_are_those_of_the_contract() -> None:
    schema = CreateSessionRequest.model_json_schema()
    assert list(schema["properties"]) == [
        "request_id",
        "session_id",
        "user_id",
        "operation",
        "payload",
        "timestamp",
        "metadata",
        "context_requirements",
        "hooks",
        "policy_hints",
        "route_directives",
    ]
    assert schema["required"] == ["user_id", "payload"]


def test_smallest_request_takes_the_requesters_defaults() -> None:
    one, other = (CreateSessionRequest.model_validate_json(SMALLEST) for _ in range(2))
    assert one.request_id != other.request_id
    assert one.request_id.version == 7
    written = datetime.fromisoformat(one.timestamp)
    assert written.utcoffset() == timedelta(0)
    assert abs(datetime.now(UTC) - written) < timedelta(minutes=1)
    assert (one.session_id, one.operation, one.payload) == (None, "create_session", CreateSessionPayload())
    assert (one.metadata, one.policy_hints, one.route_directives) == ({}, {}, {})
    assert (one.context_requirements, one.hooks) == ([], [])


def test_unknown_fields_are_ignored_at_every_level() -> None:
    body = b'{"user_id": "ada", "colour": "red", "payload": {"title": "x", "colour": "red"}}'
    request = CreateSessionRequest.model_validate_json(body)
    assert "colour" not in request.model_dump_json()


def test_python_values_are_taken_as_well_as_json() -> None:
    request_id = UUID(int=7)
    request = CreateSessionRequest.model_validate(
        {"request_id": request_id, "user_id": "ada", "payload": {"title": "x"}, "metadata": {"a": (1,)}}
    )
    assert (request.request_id, request.payload.title, request.metadata) == (request_id, "x", {"a": (1,)})


def test_request_and_payload_cannot_be_changed() -> None:
    request = CreateSessionRequest.model_validate_json(SMALLEST)
    with pytest.raises(ValidationError):
        request.user_id = "eve"  # type: ignore[misc]
    with pytest.raises(ValidationError):
        request.payload.title = "other"  # type: ignore[misc]


@pytest.mark.parametrize(
    "metadata",
    [
        {"x": [2**63 - 1, -(2**63)]},
        {"x": 1e308},
        {"x" * 256: "y" * 16_384},
        {str(number): number for number in range(1000)},
        {"x": list(range(999))},
        json.loads('{"x":' * 16 + "1" + "}" * 16),
    ],
    ids=["64-bit", "float", "longest", "most-keys", "most-items", "deepest"],
)
def test_free_form_objects_are_taken_up_to_their_limits(metadata: dict[str, object]) -> None:
    body = json.dumps({"user_id": "ada", "payload": {}, "metadata": metadata})
    assert CreateSessionRequest.model_validate_json(body).metadata == metadata


def test_strings_and_lists_are_taken_up_to_their_limits() -> None:
    body = {"user_id": "ü" * 320, "payload": {"title": "ü" * 200}, "hooks": ["h" * 256] * 100}
    request = CreateSessionRequest.model_validate_json(json.dumps(body))
    assert (request.user_id, request.payload.title, request.hooks) == (
        "ü" * 320,
        "ü" * 200,
        ["h" * 256] * 100,
    )
