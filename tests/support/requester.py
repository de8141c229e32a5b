"""A requester that knows nothing of this project: raw bytes and any properties, by way of pika."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self
from uuid import uuid4

import pika

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pika.adapters.blocking_connection import BlockingChannel


@dataclass(frozen=True)
class RawReply:
    """An answer as it came: its body, and its properties as pika gives them."""

    body: bytes
    properties: Any

    @property
    def headers(self) -> Mapping[str, Any]:
        return self.properties.headers or {}


class Requester:
    """Sends to the broker at `url` and collects what arrives on a queue of its own.

    It blocks: from a coroutine call it by way of `asyncio.to_thread`. One thread at a time may use it.
    """

    def __init__(self, url: str, *, replies_to: str | None = None) -> None:
        self.reply_to = replies_to or f"amq_test.{uuid4().hex}.reply"
        self.replies: list[RawReply] = []
        self._connection = pika.BlockingConnection(pika.URLParameters(url))
        self.channel: BlockingChannel = self._connection.channel()
        self.channel.confirm_delivery()
        direct = self.reply_to == "amq.rabbitmq.reply-to"
        if replies_to is None:
            self.channel.queue_declare(self.reply_to, exclusive=True)
        self.channel.basic_consume(self.reply_to, self._collect, auto_ack=direct or replies_to is None)

    def ready(self, queue: str) -> int:
        """Messages in a queue that nobody has in hand, as they are now, whatever broker it is."""
        return int(self.channel.queue_declare(queue, passive=True).method.message_count)

    def send(
        self, body: bytes, *, exchange: str = "", routing_key: str = "session.create", **properties: Any
    ) -> None:
        """Publish `body`, mandatory and confirmed; the reply queue is named unless `reply_to` is given.

        Raises:
            pika.exceptions.UnroutableError: no queue took it.
        """
        given = {"reply_to": self.reply_to, "delivery_mode": 2, **properties}
        self.channel.basic_publish(exchange, routing_key, body, pika.BasicProperties(**given), mandatory=True)

    def collect(self, count: int = 1, deadline: float = 15.0) -> list[RawReply]:
        """The first `count` replies, in the order they came.

        Raises:
            AssertionError: fewer came within `deadline` seconds.
        """
        end = time.monotonic() + deadline
        while len(self.replies) < count:
            left = end - time.monotonic()
            assert left > 0, f"{len(self.replies)} of {count} replies came within {deadline:g} s"
            self.process(min(left, 0.5))
        return self.replies[:count]

    def process(self, seconds: float) -> None:
        """Collect what arrives, for `seconds` at the most."""
        self._connection.process_data_events(time_limit=seconds)

    def ask(self, body: bytes, deadline: float = 15.0, **properties: Any) -> RawReply:
        """Send one request and return the answer with its correlation id."""
        wanted = properties.setdefault("correlation_id", uuid4().hex)
        self.send(body, **properties)
        for count in range(len(self.replies) + 1, 1_000_000):
            reply = self.collect(count, deadline)[-1]
            if reply.properties.correlation_id == wanted:
                return reply
        raise AssertionError("no such reply")

    def close(self) -> None:
        if self._connection.is_open:
            self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _collect(self, channel: BlockingChannel, method: Any, properties: Any, body: bytes) -> None:
        self.replies.append(RawReply(body, properties))
        if not self.reply_to.startswith("amq"):
            channel.basic_ack(method.delivery_tag)
