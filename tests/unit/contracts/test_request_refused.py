"""What a request is refused for: the field and the rule are named, the value never is."""

import json
from typing import Any

import pytest
from pydantic import ValidationError

from session_contracts import CreateSessionRequest, problems

SECRET = "s3cr3t"
GOOD: dict[str, Any] = {"user_id": "ada@example.com", "payload": {}}


def refusal(body: str | bytes) -> str:
    with pytest.raises(ValidationError) as caught:
        CreateSessionRequest.model_validate_json(body)
    return problems(caught.value)


def nested(depth: int) -> Any:
    return json.loads('{"x":' * depth + "1" + "}" * depth)


REFUSED: list[tuple[str, Any, str]] = [
    ("request_id", SECRET, "request_id: must be a UUID"),
    ("request_id", 7, "request_id: must be a UUID"),
    ("request_id", None, "request_id: must be a UUID"),
    ("session_id", f"xx_251013_{SECRET}", "session_id: must look like ts_YYMMDD_code"),
    ("session_id", "cf_251013_abc", "session_id: must look like"),
    ("session_id", 1, "session_id: must look like"),
    ("user_id", None, "user_id: must be a string of 3 to 320"),
    ("user_id", 12345, "user_id: must be a string of 3 to 320"),
    ("user_id", True, "user_id: must be a string"),
    ("user_id", ["ada"], "user_id: must be a string"),
    ("user_id", "ab", "user_id: must be a string of 3"),
    ("user_id", SECRET * 60, "user_id: must be a string of 3 to 320"),
    ("user_id", "u" * 321, "user_id: must be a string of 3 to 320"),
    ("user_id", f"{SECRET}\0", "user_id: must be a string of 3 to 320 characters without NUL"),
    ("user_id", f"{SECRET}@localhost", "user_id: must be a string of 3"),
    ("user_id", f"first.last@{SECRET}", "user_id: must be a string of 3"),
    ("operation", SECRET, "operation: must be create_session"),
    ("operation", "CREATE_SESSION", "operation: must be create_session"),
    ("operation", None, "operation: must be create_session"),
    ("operation", [SECRET], "operation: must be create_session"),
    ("payload", None, "payload: must be an object"),
    ("payload", SECRET, "payload: must be an object"),
    ("payload", [SECRET], "payload: must be an object"),
    ("payload", {"title": ""}, "payload.title: must be a string of 1 to 200"),
    ("payload", {"title": SECRET * 34}, "payload.title: must be a string of 1 to 200"),
    ("payload", {"title": "t" * 201}, "payload.title: must be a string of 1 to 200"),
    ("payload", {"title": f"{SECRET}\0"}, "payload.title: must be a string of 1 to 200"),
    ("payload", {"title": 1}, "payload.title: must be a string of 1 to 200"),
    ("payload", {"casefile_id": SECRET}, "payload.casefile_id: must look like cf_YYMMDD_code"),
    ("payload", {"casefile_id": "cf_250230_abc"}, "payload.casefile_id: must look like"),
    ("timestamp", 1760365800, "timestamp: must be an ISO 8601 date and time"),
    ("timestamp", SECRET, "timestamp: must be an ISO 8601 date and time"),
    ("timestamp", None, "timestamp: must be an ISO 8601 date and time"),
    ("metadata", None, "metadata: must be an object"),
    ("metadata", [], "metadata: must be an object"),
    ("metadata", f'{{"a":"{SECRET}"}}', "metadata: must be an object"),
    ("metadata", {SECRET: "\0"}, "metadata: must not hold a NUL"),
    ("metadata", {f"{SECRET}\0": 1}, "metadata: must not hold a NUL"),
    ("metadata", {"x": [{"y": [f"{SECRET}\0"]}]}, "metadata: must not hold a NUL"),
    ("metadata", {"x": [{f"{SECRET}\0": 1}]}, "metadata: must not hold a NUL"),
    ("metadata", {"x": 2**63}, "metadata: must not hold a whole number beyond 64 bits"),
    ("metadata", {"x": [-(2**63) - 1]}, "metadata: must not hold a whole number beyond 64 bits"),
    ("metadata", {"x": 10**4000}, "metadata: must not hold a whole number beyond 64 bits"),
    ("metadata", {"x": SECRET * 3000}, "metadata: must not hold a key of over 256 or a string of over 16384"),
    ("metadata", {SECRET * 50: 1}, "metadata: must not hold a key of over 256"),
    ("metadata", nested(17), "metadata: must not be nested more than 16 deep"),
    ("metadata", {"x": [[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]}, "metadata: must not be nested more than 16 deep"),
    ("metadata", nested(150), "metadata: must not be nested more than 16 deep"),
    ("metadata", {str(n): n for n in range(1001)}, "metadata: must not hold more than 1000 values"),
    ("metadata", {"x": [[0] * 400] * 3}, "metadata: must not hold more than 1000 values"),
    ("policy_hints", SECRET, "policy_hints: must be an object"),
    ("policy_hints", {"x": "\0"}, "policy_hints: must not hold a NUL"),
    ("route_directives", 0, "route_directives: must be an object"),
    ("route_directives", {"x": "\0"}, "route_directives: must not hold a NUL"),
    ("hooks", SECRET, "hooks: must be a list of at most 100 strings"),
    ("hooks", {"x": 1}, "hooks: must be a list"),
    ("hooks", [SECRET, 1], "hooks: must be a list of at most 100 strings"),
    ("hooks", [f"{SECRET}\0"], "hooks: must be a list"),
    ("hooks", [SECRET * 50], "hooks: must be a list of at most 100 strings of at most 256 characters"),
    ("hooks", [SECRET] * 101, "hooks: must be a list of at most 100 strings"),
    ("context_requirements", [[SECRET]], "context_requirements: must be a list"),
    ("context_requirements", None, "context_requirements: must be a list"),
]


@pytest.mark.parametrize(
    ("field", "value", "said"), REFUSED, ids=[f"{number}-{case[0]}" for number, case in enumerate(REFUSED)]
)
def test_wrong_value_is_refused_by_field_and_rule_without_its_value(
    field: str, value: Any, said: str
) -> None:
    text = refusal(json.dumps(GOOD | {field: value}))
    assert text.startswith(said)
    assert SECRET not in text
    assert "; " not in text, "one field is wrong, one problem is named"


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999"])
@pytest.mark.parametrize("field", ["metadata", "policy_hints", "route_directives"])
def test_numbers_that_are_none_are_refused(field: str, number: str) -> None:
    text = refusal(f'{{"user_id": "ada", "payload": {{}}, "{field}": {{"x": [{number}]}}}}')
    assert text == f"{field}: must not hold NaN or an infinite number"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"nul",
        f"{{{SECRET}: 1}}".encode(),
        f'{{"x": "{SECRET}\\q"}}'.encode(),
        f'{{"x": "{SECRET}\\ud800"}}'.encode(),
        f'{{"x": "{SECRET}\\udc00\\ud800"}}'.encode(),
        f'{{"{SECRET}": "\xff"}}'.encode("latin-1"),
        f'{{"x": "{SECRET}\x01"}}'.encode(),
        f'\ufeff{{"x": "{SECRET}"}}'.encode(),
        f'{{}} "{SECRET}"'.encode(),
        b'{"x":' * 100_000,
        b"[" * 100_000,
        b'{"metadata": {"x": ' + b"9" * 5000 + b"}}",
    ],
)
def test_body_that_is_not_json_is_refused_without_quoting_it(body: bytes) -> None:
    text = refusal(body)
    assert text.startswith("body: invalid JSON: ")
    assert SECRET not in text
    assert len(text) < 120


@pytest.mark.parametrize("body", ["null", "[]", "1", f'"{SECRET}"', "true"])
def test_body_that_is_no_object_is_refused(body: str) -> None:
    assert refusal(body) == "body: must be an object"


def test_missing_fields_are_named() -> None:
    assert refusal("{}") == "user_id: is required; payload: is required"


@pytest.mark.parametrize(
    "metadata",
    [
        {"x": "\ud800"},
        {"\udfff": 1},
        {1: 1},
        {"x": {1: 1}},
        {"x": b"x"},
        {"x": {1}},
        {"x": ("\0",)},
        {"x": object()},
    ],
)
def test_python_values_that_json_cannot_hold_are_refused(metadata: Any) -> None:
    with pytest.raises(ValidationError):
        CreateSessionRequest.model_validate(GOOD | {"metadata": metadata})


def test_object_that_holds_itself_is_refused() -> None:
    circle: dict[str, Any] = {}
    circle["x"] = [circle]
    with pytest.raises(ValidationError) as caught:
        CreateSessionRequest.model_validate(GOOD | {"metadata": circle})
    assert problems(caught.value) == "metadata: must not be nested more than 16 deep"


@pytest.mark.parametrize("value", [b"ada lovelace", bytearray(b"ada lovelace")])
def test_bytes_are_not_taken_for_text(value: Any) -> None:
    with pytest.raises(ValidationError):
        CreateSessionRequest.model_validate(GOOD | {"user_id": value})
