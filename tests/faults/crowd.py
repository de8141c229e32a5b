"""Requesters of all kinds in one: they send without pause, again when in doubt, and book it all."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID, uuid4

import aio_pika
from aio_pika.exceptions import AMQPError, ChannelInvalidStateError
from yarl import URL

from tests.faults.book import Book, Sending
from tests.faults.support import KEYS, NAMES, plan

if TYPE_CHECKING:
    import random

    from aio_pika.abc import AbstractExchange, AbstractIncomingMessage

REPLIES: Final = "crowd.replies"
# What a request's handler is to do, and how often that is asked for; the rest is kinds of sendings.
TITLES: Final = {
    None: 600,
    "nested": 50,
    "fail:1": 60,
    "fail:2": 20,
    "fail:9": 8,
    "slow:0.3": 40,
    "slow:2": 20,
    "reject": 30,
    "permanent": 10,
    "exit": 10,
    "kill": 1,
}
KINDS: Final = {
    "new": 100,
    "again": 12,
    "conflict": 4,
    "garbage": 4,
    "invalid": 3,
    "impatient": 6,
    "elsewhere": 5,
}
LOST: Final = (AMQPError, ChannelInvalidStateError, OSError, RuntimeError, asyncio.TimeoutError)


class Crowd:
    """Sends ``rate`` messages a second to the broker at ``url`` until ``stop``, by the dice of ``chance``;
    also requests that kill their worker, if ``killing``."""

    def __init__(self, url: str, chance: random.Random, rate: float, *, killing: bool = True) -> None:
        self.book = Book()
        self.longest_gap = 0.0
        self.kinds: dict[str, int] = dict.fromkeys(KINDS, 0)
        self._url = url
        self._titles = {title: weight for title, weight in TITLES.items() if killing or title != "kill"}
        self._chance = chance
        self._pause = 1 / rate
        self._sending = True
        self._answered: list[Sending] = []
        self._doubtful: list[Sending] = []
        self._last_answer: float | None = None

    def stop(self) -> None:
        """Send nothing new; what is in doubt goes out again, and answers are still read."""
        self._sending = False
        self._last_answer = None

    @property
    def quiet(self) -> bool:
        """Everything sent was taken, and answered."""
        return not self._doubtful and not self.book.unanswered

    @property
    def left(self) -> str:
        """What stands in the way of quiet."""
        return f"in doubt: {self._doubtful[:3]}; unanswered: {self.book.unanswered[:3]}"

    async def run(self) -> None:
        """Come back after every lost connection. Runs until cancelled."""
        while True:
            connection = aio_pika.Connection(URL(self._url))
            with suppress(*LOST):
                await connection.connect(timeout=5)
                await self._converse(connection)
            with suppress(*LOST):
                await asyncio.wait_for(connection.close(), 5)
            await asyncio.sleep(0.2)

    async def _converse(self, connection: aio_pika.Connection) -> None:
        channel = await connection.channel(on_return_raises=True)
        await channel.set_qos(500)
        queue = await channel.declare_queue(
            REPLIES, durable=True, arguments={"x-queue-type": "quorum", "x-delivery-limit": 1_000_000_000}
        )
        await queue.consume(self._on_reply)
        assert connection.transport is not None
        lost = connection.transport.connection.closing
        exchanges = (channel.default_exchange, await channel.get_exchange(NAMES.exchange))
        while True:
            if self._doubtful:
                await self._send(exchanges, replace(self._doubtful[0], correlation_id=uuid4().hex))
                self._doubtful.pop(0)
            elif self._sending:
                await self._send(exchanges, self._next())
            elif lost.done():
                return
            await asyncio.sleep(self._chance.expovariate(1 / self._pause))

    async def _send(self, exchanges: tuple[AbstractExchange, AbstractExchange], sending: Sending) -> None:
        self.book.send(sending)
        message = aio_pika.Message(
            sending.body,
            correlation_id=sending.correlation_id,
            reply_to=REPLIES,
            delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
            **sending.properties,
        )
        straight = self._chance.random() < 0.5
        names = NAMES.of(sending.key)
        exchange, key = (exchanges[0], names.work) if straight else (exchanges[1], names.routing_key)
        try:
            await exchange.publish(message, key, timeout=10)
        except BaseException:
            self._doubtful.append(sending)
            raise
        sending.confirmed = True

    async def _on_reply(self, message: AbstractIncomingMessage) -> None:
        correlation_id = message.correlation_id or ""
        answer = self.book.receive(
            correlation_id, message.body, replayed=bool(message.headers.get("x-idempotent-replayed"))
        )
        sending = self.book.sendings.get(correlation_id)
        if sending is not None and sending.request_id is not None and not answer.refusal:
            self._answered.append(sending)
        if self._sending:
            if self._last_answer is not None:
                self.longest_gap = max(self.longest_gap, answer.at - self._last_answer)
            self._last_answer = answer.at
        await message.ack()

    # ---------------------------------------------------------------------- what is sent next

    def _next(self) -> Sending:
        kind = self._choose(KINDS)
        if kind in {"again", "conflict"} and not self._answered:
            kind = "new"
        self.kinds[kind] += 1
        make: Any = getattr(self, f"_{kind}")
        sending: Sending = make()
        return sending

    def _choose(self, weights: dict[Any, int]) -> Any:
        return self._chance.choices(list(weights), list(weights.values()))[0]

    def _id(self) -> str:
        return str(UUID(int=self._chance.getrandbits(128), version=4))

    def _plan(self, title: str | None, request_id: str | None = None) -> Sending:
        """A request for any of the operations."""
        return plan(title, request_id or self._id(), self._chance.choice([*KEYS]))

    def _new(self) -> Sending:
        sending = self._plan(self._choose(self._titles))
        if sending.body and b"fail:9" in sending.body:
            return replace(sending, outcomes=frozenset({"handler_failed"}), attempts=None)
        return sending

    def _again(self) -> Sending:
        """The same request: one that was answered, or one that may still run."""
        recent = [each for each in list(self.book.sendings.values())[-50:] if _repeatable(each)]
        old = self._chance.choice(recent if recent and self._chance.random() < 0.5 else self._answered)
        return replace(old, correlation_id=uuid4().hex, confirmed=False)

    def _conflict(self) -> Sending:
        old = self._chance.choice(self._answered)
        return replace(
            self._plan("of another content", old.request_id), outcomes=frozenset({"idempotency_conflict"})
        )

    def _garbage(self) -> Sending:
        body = self._chance.choice([b"", b"{", b"\xff\xfe", b"[1,2]", b"null", b"[" * 5000])
        return Sending(uuid4().hex, None, None, frozenset({"unreadable"}), body=body)

    def _invalid(self) -> Sending:
        return replace(self._plan("x" * 300), outcomes=frozenset({"invalid_request"}))

    def _impatient(self) -> Sending:
        expiration = self._chance.choice([0.001, 0.05, 0.5, 3])
        return replace(
            self._plan(None),
            outcomes=frozenset({"completed", "expired", "internal_error"}),
            attempts=None,
            properties={"expiration": expiration},
        )

    def _elsewhere(self) -> Sending:
        """The id stands in the properties alone."""
        sending = self._plan(None)
        document = json.loads(sending.body)
        document.pop("request_id")
        return replace(
            sending, body=json.dumps(document).encode(), properties={"message_id": sending.request_id}
        )


def _repeatable(sending: Sending) -> bool:
    return sending.content is not None and not sending.outcomes & {"idempotency_conflict", "invalid_request"}
