"""The load generator reads and writes AMQP as the library does that it goes around."""

from __future__ import annotations

import json
import socket
from itertools import combinations
from typing import Any

import pytest
from pamqp import body, commands, frame, header

from benchmarks.contestants import CONTESTANTS, Contestant, find
from benchmarks.messages import new_request
from benchmarks.wire import Message, Reply, ReplyQueue

PROPERTIES: dict[str, Any] = {
    "content_type": "application/json",
    "content_encoding": "utf-8",
    "headers": {"x-idempotent-replayed": True},
    "delivery_mode": 2,
    "priority": 5,
    "reply_to": "somewhere",
    "message_id": "42",
}


def delivery(properties: commands.Basic.Properties, *parts: bytes) -> bytes:
    """A delivery as the broker sends it, its body in frames."""
    deliver = commands.Basic.Deliver("consumer", 1, False, "", "bench.replies")
    size = sum(map(len, parts))
    frames: list[Any] = [deliver, header.ContentHeader(0, size, properties), *map(body.ContentBody, parts)]
    return b"".join(frame.marshal(each, 1) for each in frames)


def reading(monkeypatch: pytest.MonkeyPatch) -> tuple[ReplyQueue, socket.socket]:
    """A consumer whose broker we are."""
    ours, theirs = socket.socketpair()
    queue = ReplyQueue.__new__(ReplyQueue)
    state = {"_socket": theirs, "_unread": b"", "_header": b"", "_body": b"", "_missing": 0}
    for name, value in state.items():
        monkeypatch.setattr(queue, name, value, raising=False)
    return queue, ours


@pytest.mark.parametrize(
    "present", [chosen for count in range(8) for chosen in combinations(PROPERTIES, count)]
)
def test_the_correlation_id_is_found_among_any_other_properties(
    present: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    queue, broker = reading(monkeypatch)
    with broker, queue:
        properties = {name: PROPERTIES[name] for name in present}
        broker.sendall(delivery(commands.Basic.Properties(correlation_id="the one", **properties), b"{}"))
        broker.sendall(delivery(commands.Basic.Properties(**properties), b"{}"))
        replies: list[Reply] = []
        while len(replies) < 2:
            replies += queue.read(5)
        assert [reply.correlation_id for reply in replies] == ["the one", ""]


def test_replies_are_read_whole_however_they_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """Byte by byte: a body in two frames, an empty one, and another."""
    properties = commands.Basic.Properties(correlation_id="1")
    data = delivery(properties, b"one ", b"two") + delivery(properties) + delivery(properties, b"three")
    queue, broker = reading(monkeypatch)
    found: list[Reply] = []
    with broker, queue:
        for position in range(len(data)):
            broker.sendall(data[position : position + 1])
            found += queue.read(5)
    assert [reply.body for reply in found] == [b"one two", b"", b"three"]


def test_a_message_is_three_frames_that_the_library_reads() -> None:
    properties = commands.Basic.Properties(correlation_id="7", delivery_mode=2)
    data = Message("queue", properties, b"body", "exchange").frames()
    frames: list[Any] = []
    while data:
        size, _, each = frame.unmarshal(data)
        frames.append(each)
        data = data[size:]
    publish, head, content = frames
    assert (publish.exchange, publish.routing_key) == ("exchange", "queue")
    assert (head.properties.correlation_id, head.properties.delivery_mode, head.body_size) == ("7", 2, 4)
    assert content.value == b"body"


@pytest.mark.parametrize("contestant", CONTESTANTS, ids=lambda each: each.name)
def test_every_contestant_is_sent_the_same_persistent_request(contestant: Contestant) -> None:
    request = new_request()
    message = contestant.format.encode(request)
    assert json.dumps(request.content, separators=(",", ":")) in message.body.decode()
    assert message.routing_key == contestant.queue
    assert message.properties.delivery_mode == 2
    assert message.properties.reply_to == "bench.replies"


def test_an_unknown_contestant_is_named() -> None:
    with pytest.raises(ValueError, match=r"no contestant is named nobody; there are aio-pika-rpc, c-echo"):
        find(["echo", "nobody"])
