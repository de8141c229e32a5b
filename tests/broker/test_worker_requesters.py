"""Requesters that share nothing with the worker but the schema: honest, mistaken, hostile or gone."""

from __future__ import annotations

import asyncio
import base64
import json
import struct
import time
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import pika
import pytest

from session_contracts import RequestStatus
from tests.support.lab import NIL, answer, code_of, request
from tests.support.tcp_proxy import TcpProxy

if TYPE_CHECKING:
    from tests.support.lab import Lab
    from tests.support.requester import Requester


# ----------------------------------------------------------------------------------------- honest ones

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
    served.take("session.create.dead")


def test_unknown_fields_and_charsets_are_tolerated(served: Lab) -> None:
    document = json.loads(request()) | {"invented_tomorrow": [1, 2, 3]}
    with served.requester() as requester:
        reply = requester.ask(json.dumps(document).encode(), content_type="application/json; charset=utf-8")
    assert code_of(reply) is None


# ------------------------------------------------------------------------------------------- addresses

OWN_QUEUES = [
    "session.create",
    "session.create.retry.1s",
    "session.create.dead",
    "session.create.undelivered",
    "session.create.anything",
]
MALFORMED = [
    "amq.rabbitmq.reply-to.",
    "amq.rabbitmq.reply-to.reply",
    "amq.rabbitmq.reply-to.g2dkABByZXBseUA5NDU4.short==",
    "amq.rabbitmq.reply-to-callback",
]


def undecodable_address() -> str:
    """Well-formed, but its pid does not decode: the broker closes the connection that sends there."""
    pid, key = base64.b64encode(b"\x83" * 33).decode(), base64.b64encode(uuid4().bytes).decode()
    return f"amq.rabbitmq.reply-to.{pid}.{key}"


def assert_alive(requester: Requester) -> None:
    assert code_of(requester.ask(request())) is None


@pytest.mark.parametrize("reply_to", [*OWN_QUEUES, "orders.work", *MALFORMED, "x" * 255])
def test_a_forbidden_reply_to_is_answered_on_the_default_queue(served: Lab, reply_to: str) -> None:
    """Naming the setting; nothing is claimed, nothing arrives at the forbidden queue."""
    request_id = str(uuid4())
    with served.requester() as requester:
        requester.send(request(request_id), reply_to=reply_to, correlation_id="mine")
    [reply] = served.take("session.replies")
    [copy] = served.take("session.create.dead")
    assert code_of(reply) == copy.headers["x-error-code"] == "reply_to_forbidden"
    assert reply.properties.correlation_id == "mine"
    assert "SESSION_WORKER_REPLY_TO_ALLOW" in answer(reply)["error"]
    assert answer(reply)["request_id"] == request_id
    served.quiet()
    assert request_id not in served.runs()


def test_addresses_that_kill_a_connection_take_nobody_else_along(served: Lab) -> None:
    """The link stays up, direct and plain replies that were in flight arrive, the outcome is recorded."""
    [worker] = served.workers
    links = sum(line["event"] == "link lost" for line in worker.logs)
    poisoned = [str(uuid4()) for _ in range(3)]
    with (
        served.requester() as plain,
        served.requester(replies_to="amq.rabbitmq.reply-to") as direct,
    ):
        for request_id in poisoned:
            plain.send(request(request_id), reply_to=undecodable_address())
            for requester in (plain, direct):
                for _ in range(20):
                    requester.send(request())
        replies = plain.collect(60) + direct.collect(60)
    assert {code_of(reply) for reply in replies} == {None}
    for request_id in poisoned:
        served.noted(request_id, "undeliverable")
    served.quiet()
    assert sum(line["event"] == "link lost" for line in worker.logs) == links


def test_a_reply_queue_that_is_gone_is_noted_and_asking_again_gets_the_answer(served: Lab) -> None:
    request_id = str(uuid4())
    with served.requester() as requester:
        requester.send(request(request_id), reply_to="amq.gen-long-gone")
        served.noted(request_id, "undeliverable")
        assert served.entry(request_id).status is RequestStatus.COMPLETED
        reply = requester.ask(request(request_id))
    assert reply.headers == {"x-idempotent-replayed": True}
    served.noted(request_id, "sent")
    served.quiet()


def test_a_requesters_full_queue_holds_up_nobody(served: Lab) -> None:
    """It refuses by nack: three tries, noted as undeliverable, while others are served."""
    full = f"amq_full_{uuid4().hex}"
    first, refused = str(uuid4()), str(uuid4())
    with served.requester() as requester:
        arguments = {"x-max-length": 1, "x-overflow": "reject-publish"}
        requester.channel.queue_declare(full, exclusive=True, arguments=arguments)
        requester.send(request(first), reply_to=full)
        served.noted(first, "sent")
        requester.send(request(refused), reply_to=full)
        assert_alive(requester)
        served.noted(refused, "undeliverable")
        assert code_of(requester.ask(request(refused))) is None
    served.quiet()


async def test_a_direct_reply_waits_for_its_connection(lab: Lab) -> None:
    """The one for direct replies cannot be opened: the worker says so, serves the others meanwhile, and sends
    the answer as soon as it can."""
    async with TcpProxy(lab.url) as proxy:
        await asyncio.to_thread(lab.worker, amqp_url=proxy.url)
        await proxy.refuse()
        request_id = str(uuid4())
        with (
            await asyncio.to_thread(lab.requester, replies_to="amq.rabbitmq.reply-to") as direct,
            await asyncio.to_thread(lab.requester) as plain,
        ):
            await asyncio.to_thread(direct.send, request(request_id))
            assert code_of(await asyncio.to_thread(plain.ask, request())) is None
            await proxy.accept()
            (reply,) = await asyncio.to_thread(direct.collect, 1)
    assert code_of(reply) is None
    assert (await asyncio.to_thread(lab.entry, request_id)).reply != "undeliverable"


# ---------------------------------------------------------------------- messages that no library makes

HEADERS, CORRELATION_ID, REPLY_TO, MESSAGE_ID, TIMESTAMP, TYPE, APP_ID = (
    1 << bit for bit in (13, 10, 9, 7, 6, 5, 3)
)


class RawProperties(pika.BasicProperties):  # type: ignore[misc]
    """Properties as the bytes that go over the wire."""

    def __init__(self, flags: int, values: bytes) -> None:
        super().__init__()
        self._raw = struct.pack(">H", flags) + values

    def encode(self) -> list[bytes]:
        return [self._raw]


def short(text: bytes) -> bytes:
    return bytes([len(text)]) + text


def table(fields: bytes) -> bytes:
    return struct.pack(">I", len(fields)) + fields


def text_field(key: bytes, value: bytes) -> bytes:
    return short(key) + b"S" + struct.pack(">I", len(value)) + value


def nested(depth: int) -> bytes:
    fields = text_field(b"k", b"v")
    for _ in range(depth):
        fields = short(b"k") + b"F" + table(fields)
    return table(fields)


POISON = {
    "correlation_id is no UTF-8": RawProperties(CORRELATION_ID, short(b"\xff\xfe\x80")),
    "reply_to is no UTF-8": RawProperties(REPLY_TO, short(b"amq.gen-\xc3\x28")),
    "15,000 headers": RawProperties(
        HEADERS, table(b"".join(short(b"%05d" % n) + b"V" for n in range(15_000)))
    ),
}
ODD = {
    "header name is no UTF-8": RawProperties(HEADERS, table(text_field(b"\xff", b"v"))),
    "header is a time before 1970": RawProperties(HEADERS, table(short(b"t") + b"T" + b"\xff" * 8)),
    "headers nested 2,000 deep": RawProperties(HEADERS, nested(2000)),
    "an array of 130,000 nothings": RawProperties(HEADERS, table(short(b"a") + b"A" + table(b"V" * 130_000))),
    "900 headers": RawProperties(HEADERS, table(b"".join(short(b"%05d" % n) + b"V" for n in range(900)))),
    "timestamp in microseconds": RawProperties(TIMESTAMP, struct.pack(">Q", 1_760_000_000_000_000)),
    "timestamp without end": RawProperties(TIMESTAMP, struct.pack(">Q", 2**64 - 1)),
    "message_id is no UTF-8": RawProperties(MESSAGE_ID, short(b"\xff")),
    "type is no UTF-8": RawProperties(TYPE, short(b"\xff")),
    "app_id is no UTF-8": RawProperties(APP_ID, short(b"\xff")),
}


def publish(requester: Requester, body: bytes, properties: Any) -> None:
    requester.channel.basic_publish("", "session.create", body, properties, mandatory=True)


def test_a_message_with_illegible_properties_is_parked_alone(served: Lab) -> None:
    """Its neighbours are served, the connection lives, and its requester hears of it where the id in the body
    allows that."""
    [worker] = served.workers
    bodies = {name: request() for name in POISON}
    with served.requester() as requester:
        for name, properties in POISON.items():
            requester.send(request())
            publish(requester, bodies[name], properties)
            requester.send(request())
        neighbours = requester.collect(2 * len(POISON))
    assert {code_of(reply) for reply in neighbours} == {None}
    parked = served.take("session.create.dead", len(POISON))
    assert sorted(copy.body for copy in parked) == sorted(bodies.values())
    assert {copy.headers["x-error-code"] for copy in parked} == {"unreadable"}
    replies = served.take("session.replies", len(POISON))
    assert {code_of(reply) for reply in replies} == {"unreadable"}
    served.quiet()
    assert not [line for line in worker.logs if line["event"] == "link lost"]


def test_a_property_that_nobody_needs_refuses_no_request(served: Lab) -> None:
    """Each of them is served, answered, and not parked, though not all of its properties can be decoded."""
    bodies = {name: request() for name in ODD}
    with served.requester() as requester:
        for name, properties in ODD.items():
            publish(requester, bodies[name], properties)
    assert [code_of(reply) for reply in served.take("session.replies", len(ODD))] == [None] * len(ODD)
    served.quiet()


@pytest.mark.parametrize(
    "headers",
    [
        {"x-death": [{"queue": "session.create", "reason": "expired", "count": 99}]},
        {"x-death": "garbage", "x-first-death-queue": 1, "x-last-death-reason": None},
        {"x-delivery-count": 99, "x-acquired-count": -1},
        {"x-request-id": str(uuid4()), "x-error-code": "rejected", "x-attempts": 99},
        {"x-requeue-count": 2**62, "x-idempotent-replayed": True},
        {"x-requeue-count": -1, "traceparent": ["no", "text"]},
        {"traceparent": "x" * 100_000},
    ],
)
def test_forged_headers_change_nothing(served: Lab, headers: dict[str, Any]) -> None:
    """Through a retry and back: the body's id counts, and none of them is in the answer."""
    request_id = str(uuid4())
    with served.requester() as requester:
        reply = requester.ask(request(request_id, fails=1), headers=headers)
    assert code_of(reply) is None
    assert reply.properties.headers is None
    assert served.entry(request_id).attempt == 2
    served.quiet()


def test_cc_and_bcc_are_not_copied(served: Lab) -> None:
    """What the requester's own message reached, neither retry nor parked copy nor reply reaches again."""
    victim = f"victim-{uuid4().hex}"
    with served.requester() as requester:
        requester.channel.queue_declare(victim, exclusive=True)
        reply = requester.ask(request(fails=9), headers={"CC": [victim], "BCC": [victim]})
        assert code_of(reply) == "handler_failed"
        [copy] = served.take("session.create.dead")
        served.quiet()
        count = requester.ready(victim)
    assert count == 1
    assert not {"CC", "BCC"} & set(copy.headers)
    assert reply.properties.headers is None


def test_a_thousand_garbage_messages_keep_no_good_request_waiting(served: Lab) -> None:
    """Every one is parked; the request behind them is answered."""
    with served.requester() as requester:
        for _ in range(1000):
            requester.channel.basic_publish("", "session.create", b"\xff" * 100)
        assert code_of(requester.ask(request())) is None
    assert {copy.body for copy in served.take("session.create.dead", 1000)} == {b"\xff" * 100}
    served.quiet()
