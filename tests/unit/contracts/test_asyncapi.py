"""The AsyncAPI document hangs together: every reference leads somewhere, every schema is one."""

import json
import re
from collections.abc import Iterator
from dataclasses import asdict
from functools import reduce
from pathlib import Path
from typing import Any, Literal
from uuid import UUID

import pytest
from jsonschema import Draft202012Validator
from pydantic import BaseModel

from session_client.call import Call
from session_contracts import CREATE_SESSION, CreateSessionPayload, CreateSessionRequest, Names, Operation
from session_contracts.asyncapi import document, schema
from session_contracts.sessions import BUILT_IN
from session_worker.requests.outcomes import Reply
from session_worker.requests.settle import reply_message


class ExtendSession(BaseModel):
    minutes: int


class CreateSessionPayloadOfOurs(BaseModel):
    """Has the name that a built-in model has."""

    title: int = 7


CreateSessionPayloadOfOurs.__name__ = CreateSessionPayloadOfOurs.__qualname__ = "CreateSessionPayload"
EXTEND = Operation("extend_session", ExtendSession, CreateSessionPayloadOfOurs)
OPERATIONS = (*BUILT_IN, EXTEND)
DOCUMENT = document(Names("acme"), OPERATIONS)
SCHEMAS = Path(__file__).resolve().parents[3] / "docs" / "schemas"


def references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for value in node.values():
            yield from references(value)
    elif isinstance(node, list):
        for value in node:
            yield from references(value)


def resolve(reference: str) -> Any:
    path = reference.removeprefix("#/").split("/")
    return reduce(lambda node, step: node[step], path, DOCUMENT)


def test_document_is_plain_json_of_version_3() -> None:
    assert json.loads(json.dumps(DOCUMENT)) == DOCUMENT
    assert DOCUMENT["asyncapi"] == "3.0.0"
    assert {"title", "version"} <= DOCUMENT["info"].keys()


@pytest.mark.parametrize("reference", sorted(set(references(DOCUMENT))))
def test_reference_leads_to_an_object(reference: str) -> None:
    assert isinstance(resolve(reference), dict)


@pytest.mark.parametrize("name", sorted(DOCUMENT["components"]["schemas"]))
def test_schema_is_a_schema(name: str) -> None:
    Draft202012Validator.check_schema(DOCUMENT["components"]["schemas"][name])


def test_request_satisfies_the_schema_of_its_message() -> None:
    payload = DOCUMENT["components"]["messages"]["CreateSessionRequest"]["payload"]
    validator = Draft202012Validator({**DOCUMENT, **payload})
    request = CreateSessionRequest(user_id="ada", payload=CreateSessionPayload(title="x"))
    validator.validate(json.loads(request.model_dump_json()))
    assert not validator.is_valid({"user_id": "ada"})


def check_properties(message: str, given: dict[str, Any]) -> None:
    """Every property and header that is set is declared, and is of the kind that is declared."""
    given |= given.pop("headers") or {}
    given = {name: value for name, value in given.items() if value not in (None, "")}
    declared = DOCUMENT["components"]["messages"][message]["headers"]
    assert given.keys() <= declared["properties"].keys()
    Draft202012Validator(declared).validate(given)


async def test_what_the_client_sends_beside_the_body_is_declared() -> None:
    request = CreateSessionRequest(user_id="ada", payload=CreateSessionPayload())
    properties = Call(CREATE_SESSION, request, timeout=30).message("shop.replies").properties
    given: dict[str, Any] = dict(properties)
    assert given.pop("delivery_mode") == 2
    given["type"] = given.pop("message_type")
    given["timestamp"] = int(given["timestamp"].timestamp())
    check_properties("CreateSessionRequest", given)


def test_what_the_worker_sends_beside_the_body_is_declared() -> None:
    properties = asdict(
        reply_message(Reply(b"", "shop.replies", "call-7", replayed=True), "CreateSessionResponse").properties
    )
    assert properties.pop("persistent")
    check_properties("CreateSessionResponse", properties | {"message_id": "one for each message"})


@pytest.mark.parametrize("operation", OPERATIONS, ids=repr)
def test_each_operation_has_channels_messages_and_a_reply_of_its_own(operation: Operation[Any, Any]) -> None:
    told = DOCUMENT["operations"][re.sub("_(.)", lambda found: found[1].upper(), operation.name)]
    channel, reply = resolve(told["channel"]["$ref"]), resolve(told["reply"]["channel"]["$ref"])
    assert channel["address"] == operation.key
    assert channel["bindings"]["amqp"]["exchange"]["name"] == "acme"
    assert f"acme.{operation.key} " in channel["description"]
    assert "acme.replies" in told["reply"]["address"]["description"]
    for where, part, name in (
        (channel, told, operation.request_type),
        (reply, told["reply"], operation.response_type),
    ):
        assert list(where["messages"]) == [name]
        (message,) = part["messages"]
        assert resolve(resolve(message["$ref"])["$ref"])["name"] == name


def test_operations_with_similar_names_are_all_there() -> None:
    similar = [Operation(name, ExtendSession, ExtendSession) for name in ("ab", "a_b", "a1", "a_1")]
    described = document(Names("acme"), similar)
    assert len(described["operations"]) == 4
    assert len(described["components"]["messages"]) == 8


def test_two_models_of_one_name_keep_schemas_of_their_own() -> None:
    """A user's app gives its models the names that it likes."""
    response = {**DOCUMENT, **DOCUMENT["components"]["messages"]["ExtendSessionResponse"]["payload"]}
    answer: dict[str, Any] = {
        "request_id": str(UUID(int=7)),
        "status": "completed",
        "timestamp": "",
        "error": None,
        "metadata": {},
    }
    validator = Draft202012Validator(response)
    assert validator.is_valid(answer | {"payload": {"title": 7}})
    assert not validator.is_valid(answer | {"payload": {"title": "x"}})


@pytest.mark.parametrize("operation", BUILT_IN, ids=repr)
@pytest.mark.parametrize("of", ["request", "response"])
def test_the_published_schemas_are_those_of_the_models(
    operation: Operation[Any, Any], of: Literal["request", "response"]
) -> None:
    name = operation.request_type if of == "request" else operation.response_type
    assert json.loads((SCHEMAS / f"{name}.schema.json").read_text()) == schema(operation, of)


def test_no_other_schemas_are_published() -> None:
    names = {name for operation in BUILT_IN for name in (operation.request_type, operation.response_type)}
    assert {path.name for path in SCHEMAS.iterdir()} == {f"{name}.schema.json" for name in names}
    given = SCHEMAS.parents[1] / "tests" / "CreateSessionResponse.schema.json"
    assert json.loads((SCHEMAS / given.name).read_text()) == json.loads(given.read_text())
