"""docs/wire.md has the numbers, the names and the rules of the code."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from pydantic import BaseModel, ConfigDict, ValidationError

from session_contracts import CREATE_SESSION, ErrorCode, Names, Operation, amqp, types
from session_contracts.sessions import BUILT_IN
from session_worker.messages.headers import MAX_FIELDS
from session_worker.requests.outcomes import Reply
from session_worker.requests.request import NIL_ID, Refusal, Request
from session_worker.requests.settle import reply_message
from session_worker.settings import Settings
from tests.support import parts
from tests.support.pages import blocks

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "wire.md").read_text()
(EXAMPLE,) = [json.loads(block.text) for block in blocks(PAGE) if block.language == "json"]
NAMES = Names()


class AnyObject(BaseModel):
    model_config = ConfigDict(extra="allow")


def rows(heading: str) -> dict[str, str]:
    """The table under a heading: what stands in its second column, by what stands in its first."""
    part = re.split(rf"^#+ {heading}$", PAGE, flags=re.MULTILINE)[1].split("\n#")[0]
    return dict(re.findall(r"^\| (.+?) \| (.+) \|$", part, re.MULTILINE))


def parsed(document: dict[str, Any], **properties: Any) -> Request | Refusal:
    return parts.parser(limit=262144).parse(parts.delivery(json.dumps(document).encode(), **properties))


def without(*names: str) -> dict[str, Any]:
    return {name: value for name, value in EXAMPLE.items() if name not in names}


def test_the_example_is_a_request() -> None:
    request = parsed(EXAMPLE)
    assert isinstance(request, Request)
    assert str(request.request_id) == EXAMPLE["request_id"]


@pytest.mark.parametrize("name", EXAMPLE)
def test_the_page_names_the_required_fields(name: str) -> None:
    named = f"`{name}`" in PAGE.partition("with at least ")[2].partition(":")[0]
    assert isinstance(parsed(without(name)), Refusal) == named


@pytest.mark.parametrize(
    "name",
    [
        *(NAMES.exchange, NAMES.routing_key, NAMES.replies, NAMES.dead, f"{NAMES.replies}.<your name>"),
        *(amqp.DIRECT_REPLY_TO, amqp.REQUEST_ID, amqp.IDEMPOTENT_REPLAYED, amqp.CONTENT_TYPE),
        CREATE_SESSION.response_type,
        ErrorCode.EXPIRED,
        ErrorCode.IDEMPOTENCY_CONFLICT,
    ],
)
def test_the_page_has_each_name_of_the_code(name: str) -> None:
    assert f"`{name}`" in PAGE


@pytest.mark.parametrize("operation", BUILT_IN, ids=repr)
def test_the_page_has_each_operation_with_its_routing_key_and_schemas(operation: Operation[Any, Any]) -> None:
    row = next(line for line in PAGE.splitlines() if line.startswith(f"| `{operation.name}` "))
    assert f"| `{operation.key}` |" in row
    for name in (operation.request_type, operation.response_type):
        assert f"(schemas/{name}.schema.json)" in row


def test_a_body_may_leave_its_operation_out_but_name_no_other() -> None:
    assert isinstance(parsed(without("operation")), Request)
    other = parsed(EXAMPLE | {"operation": "close_session"})
    assert isinstance(other, Refusal)
    assert other.code is ErrorCode.UNSUPPORTED_OPERATION


def test_an_apps_payload_has_no_limit_on_its_values_but_on_its_depth() -> None:
    operation = Operation("extend_session", AnyObject, AnyObject)
    many, deep = {"values": [0] * (types.MAX_VALUES + 1)}, json.loads("[" * 20 + "]" * 20)
    body = {"user_id": "ada", "payload": many}
    assert operation.read(json.dumps(body).encode()).request.payload
    with pytest.raises(ValidationError):
        operation.read(json.dumps(body | {"payload": {"deep": deep}}).encode())


def test_the_limits_on_the_page_are_those_of_the_code() -> None:
    body = Settings.model_fields["max_body_bytes"].default
    assert rows("Limits") == {
        "What": "At most",
        "the body": f"{body} bytes (`SESSION_WORKER_MAX_BODY_BYTES`)",
        "headers": f"{MAX_FIELDS}",
        "`metadata`, `policy_hints`, `route_directives`, each": f"{types.MAX_DEPTH} levels deep, "
        f"{types.MAX_VALUES} values",
        "… a key in it": f"{types.MAX_KEY} characters",
        "… a string in it": f"{types.MAX_TEXT} characters",
        "… a whole number in it": "64 bits, signed",
        "`payload` of an operation of an app": "as these, without a limit on its values",
        "`context_requirements`, `hooks`, each": f"{types.MAX_ITEMS} strings of {types.MAX_KEY} characters",
    }


@pytest.mark.parametrize(
    ("metadata", "fits"),
    [({"n": 2**63 - 1}, True), ({"n": 2**63}, False), ({"n": "\0"}, False), ({"n": float("inf")}, False)],
)
def test_numbers_and_text_have_the_bounds_of_the_page(metadata: dict[str, Any], fits: bool) -> None:
    assert isinstance(parsed(EXAMPLE | {"metadata": metadata}), Request) == fits


@pytest.mark.parametrize(
    ("properties", "read"),
    [
        ({"content_type": None}, True),
        ({"content_type": "application/json; charset=utf-8"}, True),
        ({"content_type": "application/vnd.session+json"}, True),
        ({"content_type": "text/plain"}, False),
        ({"content_encoding": "utf-8"}, True),
        ({"content_encoding": "identity"}, True),
        ({"content_encoding": "gzip"}, False),
        ({"reply_to": "session.replies.shop"}, True),
        ({"reply_to": "session.create"}, False),
    ],
)
def test_properties_are_taken_as_the_page_says(properties: dict[str, Any], read: bool) -> None:
    assert isinstance(parsed(EXAMPLE, **properties), Request) == read


def test_what_is_missing_is_made_up_for_as_the_page_says() -> None:
    request = parsed(EXAMPLE, expiration="1500")
    assert isinstance(request, Request)
    assert request.reply_to == NAMES.replies
    assert request.correlation_id == EXAMPLE["request_id"]
    assert request.time_to_live == 1.5


def test_the_id_is_looked_for_in_the_order_of_the_page() -> None:
    ids = [str(uuid4()) for _ in range(3)]
    places: list[dict[str, Any]] = [
        {"headers": {"x-request-id": ids[0]}},
        {"message_id": ids[1]},
        {"correlation_id": ids[2]},
    ]
    for number, expected in enumerate(ids):
        given = {name: value for place in places[number:] for name, value in place.items()}
        request = parsed(without("request_id"), **given)
        assert isinstance(request, Request)
        assert str(request.request_id) == expected
    for refused in (
        parsed(without("request_id"), message_id="no UUID"),
        parsed(EXAMPLE | {"request_id": str(NIL_ID)}),
    ):
        assert isinstance(refused, Refusal)


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"metadata": {"a": 1}}, True),
        ({"timestamp": "2025-10-13T14:30:00Z"}, True),
        ({"payload": EXAMPLE["payload"] | {"casefile_id": "CF_251013_ABC123"}}, True),
        ({"user_id": "grace@example.com"}, False),
        ({"payload": EXAMPLE["payload"] | {"title": "Search of the East wing"}}, False),
        ({"payload": {}}, False),
    ],
)
def test_two_requests_are_the_same_as_the_page_says(change: dict[str, Any], same: bool) -> None:
    one, other = parsed(EXAMPLE), parsed(EXAMPLE | change)
    assert isinstance(one, Request)
    assert isinstance(other, Request)
    assert (one.fingerprint == other.fingerprint) == same


def test_a_field_that_is_null_is_like_one_that_is_missing() -> None:
    null, missing = parsed(EXAMPLE | {"payload": {"title": None}}), parsed(EXAMPLE | {"payload": {}})
    assert isinstance(null, Request)
    assert isinstance(missing, Request)
    assert null.fingerprint == missing.fingerprint


def test_an_answer_carries_what_the_page_says() -> None:
    first, again = (
        reply_message(
            Reply(b"", "shop.replies", "call-7", replayed=replayed), CREATE_SESSION.response_type
        ).properties
        for replayed in (False, True)
    )
    there = rows("Be answered")
    assert there["`content_type`"] == f"`{first.content_type}`"
    assert there["`type`"] == f"the operation's, `{first.type}` for example"
    assert first.persistent
    assert not first.headers
    assert again.headers == {"x-idempotent-replayed": True}


@pytest.mark.parametrize(
    ("properties", "answerable"),
    [({}, False), ({"correlation_id": "call-7"}, True), ({"message_id": str(uuid4())}, True)],
)
def test_a_message_that_nobody_could_match_is_not_answered(
    properties: dict[str, Any], answerable: bool
) -> None:
    refusal = parsed(without("request_id", "user_id"), **properties)
    assert isinstance(refusal, Refusal)
    assert (refusal.correlation_id is not None) == answerable


def test_a_refusal_goes_to_the_queue_of_the_page_where_reply_to_is_not_allowed() -> None:
    refusal = parsed(EXAMPLE, reply_to="orders.work")
    assert isinstance(refusal, Refusal)
    assert (refusal.code, refusal.reply_to) == (ErrorCode.REPLY_TO_FORBIDDEN, NAMES.replies)
