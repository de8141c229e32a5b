"""The bytes of an answer: what a consumer with nothing but the published schema reads in it."""

import json
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from session_contracts import CreateSessionResponse, ErrorCode
from session_contracts.errors import ERRORS
from session_contracts.sessions import NIL_SESSION_ID
from session_contracts.types import timestamp
from session_worker.operations.built_in import CREATE
from session_worker.requests.request import NIL_ID, Refusal
from session_worker.requests.response import ResponseBuilder
from session_worker.requests.results import OUR_FACTS, Success
from session_worker.requests.sentences import SENTENCES, sentence
from tests.support import parts

SCHEMA = json.loads((Path(__file__).parents[2] / "CreateSessionResponse.schema.json").read_text())
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA, format_checker=jsonschema.FormatChecker())
BUILDER = ResponseBuilder("worker-7", CREATE)
REQUEST = parts.request()


def _read(body: bytes) -> dict[str, Any]:
    """The answer, once it has passed the published schema and our own model."""
    document: dict[str, Any] = json.loads(body)
    VALIDATOR.validate(document)
    assert CreateSessionResponse.model_validate_json(body).model_dump_json().encode() == body
    return document


METADATA = st.dictionaries(
    st.sampled_from([*OUR_FACTS, "error_code", "retryable", "region"])
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=5),
    st.none() | st.integers(0, 9) | st.lists(st.booleans(), max_size=2),
    max_size=5,
)


@given(metadata=METADATA, attempt=st.integers(1, 1000), seconds=st.floats(0, 1e5))
def test_completed_answer_carries_the_reserved_session_and_the_handlers_metadata_under_ours(
    metadata: dict[str, Any], attempt: int, seconds: float
) -> None:
    answer = _read(BUILDER.completed(REQUEST, parts.claimed(attempt), Success(None, metadata), seconds))
    assert (answer["request_id"], answer["status"], answer["error"]) == (
        str(REQUEST.request_id),
        "completed",
        None,
    )
    assert answer["payload"] == {
        "session_id": parts.SESSION_ID,
        "casefile_id": parts.CASEFILE_ID,
        "created_at": "2026-01-02T03:04:05.000+00:00",
    }
    ours = {"attempts": attempt, "worker_id": "worker-7", "processing_ms": round(seconds * 1000, 3)}
    theirs = {name: fact for name, fact in metadata.items() if name not in ("error_code", "retryable")}
    assert answer["metadata"] == theirs | ours


@pytest.mark.parametrize("code", ErrorCode)
@pytest.mark.parametrize("rejection_code", [None, "quota"])
def test_failed_answer_carries_the_reserved_session_and_the_facts_of_its_code(
    code: ErrorCode, rejection_code: str | None
) -> None:
    answer = _read(BUILDER.failed(REQUEST, parts.claimed(3), code, "what to do", 0.25, rejection_code))
    assert (answer["status"], answer["error"]) == ("failed", "what to do")
    assert answer["payload"]["session_id"] == parts.SESSION_ID
    assert answer["payload"]["created_at"] == timestamp(parts.RECEIVED_AT)
    expected = {
        "error_code": code.value,
        "retryable": ERRORS[code].retryable,
        "attempts": 3,
        "worker_id": "worker-7",
        "processing_ms": 250.0,
    }
    assert answer["metadata"] == expected | ({"rejection_code": "quota"} if rejection_code else {})


def test_failed_answer_without_words_is_still_failed() -> None:
    answer = _read(BUILDER.failed(REQUEST, parts.claimed(), ErrorCode.REJECTED, "", 0.0))
    assert (answer["status"], answer["error"]) == ("failed", "")


@pytest.mark.parametrize("casefile_id", [None, parts.CASEFILE_ID])
def test_refusal_reserves_nothing_and_carries_the_nil_session(casefile_id: str | None) -> None:
    refusal = Refusal(
        ErrorCode.UNREADABLE, "body: is not JSON", None, "session.replies", "call-7", casefile_id
    )
    before = datetime.now(UTC)
    answer = _read(BUILDER.refused(refusal))
    assert (answer["request_id"], answer["status"]) == (str(NIL_ID), "failed")
    assert answer["payload"]["session_id"] == NIL_SESSION_ID
    assert answer["payload"]["casefile_id"] == casefile_id
    assert abs(datetime.fromisoformat(answer["payload"]["created_at"]) - before) < timedelta(seconds=5)
    assert answer["metadata"]["error_code"] == "unreadable"
    assert answer["metadata"]["attempts"] == 0


def test_our_facts_are_those_that_an_answer_carries() -> None:
    """The limits of the handler's metadata leave room for exactly these."""
    answer = _read(BUILDER.completed(REQUEST, parts.claimed(), Success(None, {}), 0.0))
    assert answer["metadata"].keys() == OUR_FACTS.keys()


@pytest.mark.parametrize("code", SENTENCES)
def test_sentences_name_numbers_and_leave_no_gap(code: ErrorCode) -> None:
    said = sentence(code, attempts=6, crashes=3)
    assert "{" not in said
    assert ("6 time(s)" in said) == (code in {ErrorCode.HANDLER_FAILED, ErrorCode.HANDLER_TIMEOUT})
    assert ("3 workers" in said) == (code is ErrorCode.CRASHED_WORKER)


def test_times_carry_an_offset_and_milliseconds() -> None:
    moment = datetime(2026, 7, 1, 2, 0, 0, 123_999, tzinfo=timezone(timedelta(hours=2)))
    assert timestamp(moment) == "2026-07-01T00:00:00.123+00:00"
