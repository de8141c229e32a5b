"""A requester that shares nothing with us but the published schema: raw JSON in, raw properties out."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

import pytest

from tests.support.lab import NIL, answer, code_of, request

if TYPE_CHECKING:
    from tests.support.lab import Lab

ODD_IDS = ["plain", " two spaces ", "é" * 127 + "x", "𝄞\u200f\u0000\ufffe", "x" * 255, '{"a": "\\u0000"}']


@pytest.mark.parametrize("target", [("", "session.create"), ("session", "create")])
def test_an_answer_has_the_properties_of_the_contract(served: Lab, target: tuple[str, str]) -> None:
    """Straight to the queue and by way of the exchange."""
    exchange, routing_key = target
    request_id = str(uuid4())
    before = int(time.time())
    with served.requester() as requester:
        requester.send(
            request(request_id, "Search of the east wing"),
            exchange=exchange,
            routing_key=routing_key,
            correlation_id="mine",
        )
        [reply] = requester.collect()
    document = answer(reply)
    assert document["request_id"] == request_id
    assert (document["status"], document["error"]) == ("completed", None)
    assert document["payload"]["session_id"] == served.entry(request_id).session_id
    properties = reply.properties
    assert properties.correlation_id == "mine"
    assert (properties.content_type, properties.type) == ("application/json", "CreateSessionResponse")
    assert properties.delivery_mode == 2
    assert before <= properties.timestamp <= time.time()
    assert UUID(properties.message_id)
    assert properties.headers is None
    assert properties.reply_to is None


def test_correlation_ids_come_back_verbatim(served: Lab) -> None:
    """Odd characters, and as long as AMQP allows."""
    with served.requester() as requester:
        for correlation_id in ODD_IDS:
            requester.send(request(), correlation_id=correlation_id)
        replies = requester.collect(len(ODD_IDS))
    assert sorted(reply.properties.correlation_id for reply in replies) == sorted(ODD_IDS)
    assert len({reply.properties.message_id for reply in replies}) == len(ODD_IDS)


def test_without_a_correlation_id_the_request_id_is_the_correlation_id(served: Lab) -> None:
    request_id = str(uuid4())
    with served.requester() as requester:
        requester.send(request(request_id))
        [reply] = requester.collect()
    assert reply.properties.correlation_id == request_id


def test_without_reply_to_the_answer_goes_to_the_default_reply_queue(served: Lab) -> None:
    request_id = str(uuid4())
    with served.requester() as requester:
        requester.send(request(request_id), reply_to=None)
    [reply] = served.take("session.replies")
    assert answer(reply)["request_id"] == reply.properties.correlation_id == request_id


def test_direct_reply_to_is_answered(served: Lab) -> None:
    """Also after a retry. The second answer is a redrive, and says so."""
    body = request(fails=1)
    with served.requester(replies_to="amq.rabbitmq.reply-to") as requester:
        first, again = requester.ask(body), requester.ask(body)
    assert answer(first)["status"] == "completed"
    assert first.body == again.body
    assert again.headers == {"x-idempotent-replayed": True}


@pytest.mark.parametrize("where", ["x-request-id", "message_id", "correlation_id"])
def test_the_request_id_may_stand_in_the_properties(served: Lab, where: str) -> None:
    """In the order of the contract; what stands there is the request's id for ever."""
    request_id = str(uuid4())
    body = json.dumps({"user_id": "ada@example.com", "payload": {}}).encode()
    properties = {"headers": {where: request_id}} if where.startswith("x-") else {where: request_id}
    with served.requester() as requester:
        for _ in range(2):
            requester.send(body, **properties)
        first, again = requester.collect(2)
    assert answer(first)["request_id"] == request_id
    assert first.body == again.body


def test_garbage_is_answered_with_the_nil_id_when_the_requester_can_match_it(served: Lab) -> None:
    with served.requester() as requester:
        reply = requester.ask(b"\xff\xfe no JSON", correlation_id="mine")
    assert code_of(reply) == "unreadable"
    assert answer(reply)["request_id"] == NIL
    assert answer(reply)["payload"]["session_id"] == "ts_000000_none"


def test_unknown_fields_and_charsets_are_tolerated(served: Lab) -> None:
    document = json.loads(request()) | {"invented_tomorrow": [1, 2, 3]}
    with served.requester() as requester:
        reply = requester.ask(json.dumps(document).encode(), content_type="application/json; charset=utf-8")
    assert code_of(reply) is None
