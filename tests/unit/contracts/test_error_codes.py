"""Every error code is explained, and problems are put into words that are safe to send."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from session_contracts import ERRORS, CreateSessionRequest, CreateSessionResponse, ErrorCode, problems


def test_every_code_is_explained() -> None:
    assert list(ERRORS) == list(ErrorCode)
    assert all(info.meaning.endswith(".") for info in ERRORS.values())


def test_only_business_answers_and_late_requests_are_not_parked() -> None:
    assert {code for code, info in ERRORS.items() if not info.parked} == {
        ErrorCode.REJECTED,
        ErrorCode.SESSION_NOT_FOUND,
        ErrorCode.SESSION_CLOSED,
        ErrorCode.EXPIRED,
    }


def test_expired_says_that_nothing_was_done_and_what_to_do() -> None:
    assert "Nothing was done; send a new request" in ERRORS[ErrorCode.EXPIRED].meaning
    assert ERRORS[ErrorCode.EXPIRED].retryable


def test_codes_are_the_published_closed_list() -> None:
    assert [str(code) for code in ErrorCode] == [
        "unreadable",
        "invalid_request",
        "too_large",
        "missing_request_id",
        "unsupported_operation",
        "idempotency_conflict",
        "reply_to_forbidden",
        "rejected",
        "session_not_found",
        "session_closed",
        "expired",
        "handler_failed",
        "handler_timeout",
        "handler_result_invalid",
        "crashed_worker",
        "internal_error",
    ]


def error_of(validate: Any, value: Any) -> ValidationError:
    with pytest.raises(ValidationError) as caught:
        validate(value)
    return caught.value


def test_ten_problems_at_most_are_named_and_the_rest_counted() -> None:
    error = error_of(TypeAdapter(list[int]).validate_python, ["x"] * 25)
    assert problems(error).count(": ") == 10
    assert problems(error).endswith("; and 15 more")


@given(st.lists(st.text(), min_size=1))
def test_problems_are_bounded_and_printable_whatever_the_keys(keys: list[str]) -> None:
    adapter = TypeAdapter(dict[str, dict[str, int]])
    error = error_of(adapter.validate_python, {key: {"\U0001f50d" * 5000: "x", key: "x"} for key in keys})
    text = problems(error)
    assert len(text) <= 2000
    assert text.isascii()
    assert text.isprintable()


def test_keys_are_cut() -> None:
    error = error_of(TypeAdapter(dict[str, dict[str, int]]).validate_python, {"k" * 9999: {"é\n": "x"}})
    assert problems(error) == f"{'k' * 40}.'\\xe9\\n': must be a whole number"


class Loud(BaseModel):
    """Constraints whose messages in pydantic quote what was sent, or a pattern."""

    code: str = Field(default="", pattern="^[a-z]$")
    number: float = 0.0
    url: TypeAdapter[int] | None = Field(default=None, exclude=True)

    model_config = {"arbitrary_types_allowed": True}


def test_words_of_the_parser_are_never_repeated() -> None:
    text = problems(error_of(Loud.model_validate, {"code": "s3cr3t", "number": "s3cr3t", "url": "s3cr3t"}))
    assert text == (
        "code: must match the published pattern; number: must be a number; url: is not valid (is_instance_of)"
    )


def test_response_that_is_none_of_ours_is_put_into_words() -> None:
    body = json.dumps({"request_id": "s3cr3t", "status": "s3cr3t", "payload": [], "error": 1, "metadata": 1})
    assert problems(error_of(CreateSessionResponse.model_validate_json, body)) == (
        "request_id: must be a UUID; status: must be one of the published values; "
        "payload: must be an object; error: must be a string; metadata: must be an object"
    )


@pytest.mark.parametrize(
    "body",
    [
        {"hooks": [1] * 100_000, "context_requirements": ["x" * 300] * 10_000},
        {"metadata": {"x": [float("nan")] * 100_000}, "policy_hints": {"x": [{}] * 100_000}},
        {f"k{number}": number for number in range(100_000)},
    ],
    ids=["lists", "objects", "unknown-fields"],
)
def test_large_bad_body_makes_few_errors(body: dict[str, Any]) -> None:
    """What is wrong with a field is one error, however often it is wrong: refusing stays cheap."""
    error = error_of(CreateSessionRequest.model_validate_json, json.dumps(body))
    assert error.error_count() <= 4
    assert len(problems(error)) < 400
