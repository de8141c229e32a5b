"""Messages that no client library could make, and headers that no honest requester would."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pika
import pytest

from tests.support.lab import code_of, request

if TYPE_CHECKING:
    from tests.support.lab import Lab
    from tests.support.requester import Requester

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
