"""The response is the published one, to the letter, and any reader of its schema can read it."""

import json
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from pydantic import ValidationError

from session_contracts import NIL_SESSION_ID, CreateSessionResponse, RequestStatus, SessionCreatedPayload
from tests.unit.contracts.strategies import OBJECTS, TEXT

PUBLISHED: dict[str, Any] = json.loads(
    (Path(__file__).parents[2] / "CreateSessionResponse.schema.json").read_text(encoding="utf-8")
)

RESPONSES = st.builds(
    CreateSessionResponse,
    request_id=st.uuids(),
    status=st.sampled_from(RequestStatus),
    payload=st.builds(
        SessionCreatedPayload,
        session_id=st.text(TEXT),
        casefile_id=st.none() | st.text(TEXT),
        created_at=st.text(TEXT),
    ),
    timestamp=st.text(TEXT),
    error=st.none() | st.text(TEXT),
    metadata=OBJECTS,
)


def failed() -> CreateSessionResponse:
    return CreateSessionResponse(
        request_id=UUID(int=0),
        status=RequestStatus.FAILED,
        payload=SessionCreatedPayload(session_id=NIL_SESSION_ID, created_at="2025-10-13T14:30:00Z"),
        error="It was not to be.",
    )


def test_schema_equals_the_published_one_in_every_key_and_their_order() -> None:
    assert json.dumps(CreateSessionResponse.model_json_schema()) == json.dumps(PUBLISHED)


@given(RESPONSES)
def test_every_response_satisfies_the_published_schema(response: CreateSessionResponse) -> None:
    Draft202012Validator(PUBLISHED).validate(json.loads(response.model_dump_json()))


@given(RESPONSES)
def test_response_round_trips_byte_for_byte(response: CreateSessionResponse) -> None:
    body = response.model_dump_json()
    assert CreateSessionResponse.model_validate_json(body).model_dump_json() == body


def test_failed_response_carries_a_payload() -> None:
    assert json.loads(failed().model_dump_json())["payload"] == {
        "session_id": "ts_000000_none",
        "casefile_id": None,
        "created_at": "2025-10-13T14:30:00Z",
    }
    without = {key: value for key, value in failed().model_dump(mode="json").items() if key != "payload"}
    with pytest.raises(ValidationError):
        CreateSessionResponse.model_validate(without)


def test_fields_of_a_newer_worker_are_ignored_and_never_written() -> None:
    body = failed().model_dump(mode="json")
    newer = body | {"colour": "red", "payload": body["payload"] | {"colour": "red"}}
    assert json.loads(CreateSessionResponse.model_validate(newer).model_dump_json()) == body


@pytest.mark.parametrize(
    "metadata", [{"x": float("nan")}, {"x": {"y": object()}}, {"x": [2**63]}, {"x": "\0"}]
)
def test_metadata_that_json_or_a_ledger_cannot_hold_is_refused_before_it_is_written(
    metadata: dict[str, Any],
) -> None:
    with pytest.raises(ValidationError):
        CreateSessionResponse.model_validate(failed().model_dump() | {"metadata": metadata})


def test_response_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        failed().error = None  # type: ignore[misc]
