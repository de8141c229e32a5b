"""The AsyncAPI document hangs together: every reference leads somewhere, every schema is one."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from functools import reduce
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from session_client.call import Call
from session_contracts import CREATE_SESSION, CreateSessionPayload, CreateSessionRequest, Names
from session_contracts.asyncapi import document
from session_worker.requests.outcomes import Reply
from session_worker.requests.settle import reply_message

DOCUMENT = document(Names("acme"))


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
    properties = asdict(reply_message(Reply(b"", "shop.replies", "call-7", replayed=True)).properties)
    assert properties.pop("persistent")
    check_properties("CreateSessionResponse", properties | {"message_id": "one for each message"})


def test_names_follow_the_prefix() -> None:
    create = DOCUMENT["channels"]["create"]
    assert create["bindings"]["amqp"]["exchange"]["name"] == "acme"
    assert create["address"] == "create"
    assert "acme.create" in create["description"]
    assert "acme.replies" in DOCUMENT["operations"]["createSession"]["reply"]["address"]["description"]
