"""A requester of the plainest kind: bytes out, bytes in, so that the demo sees what is on the wire."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self
from uuid import uuid4

import aio_pika
import aio_pika.exceptions

from session_contracts.amqp import CONTENT_TYPE, IDEMPOTENT_REPLAYED

if TYPE_CHECKING:
    from aio_pika.abc import AbstractIncomingMessage

    from session_contracts.amqp import Names


class NoAnswer(Exception):  # noqa: N818 - it is what it says
    """The message could not be sent or was not answered; the message names the reason in a word."""


@dataclass(frozen=True, slots=True)
class RawAnswer:
    """An answer as it came."""

    body: bytes
    replayed: bool


class RawRequester:
    """Publishes to the exchange and matches answers by correlation id, on a queue that the broker names."""

    def __init__(self, url: str, names: Names, timeout: float) -> None:
        self._url = url
        self._names = names
        self._timeout = timeout
        self._waiting: dict[str, asyncio.Future[RawAnswer]] = {}

    async def __aenter__(self) -> Self:
        self._connection = await aio_pika.connect(self._url, timeout=self._timeout)
        channel = await self._connection.channel()
        self._queue = await channel.declare_queue(exclusive=True)
        self._exchange = await channel.get_exchange(self._names.exchange, ensure=False)
        await self._queue.consume(self._take, no_ack=True)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._connection.close()

    async def ask(self, body: bytes) -> RawAnswer:
        """Publish ``body`` and wait for the answer.

        Raises:
            NoAnswer: none came.
        """
        correlation_id = str(uuid4())
        answer: asyncio.Future[RawAnswer] = asyncio.get_running_loop().create_future()
        self._waiting[correlation_id] = answer
        message = aio_pika.Message(
            body,
            content_type=CONTENT_TYPE,
            correlation_id=correlation_id,
            reply_to=self._queue.name,
            delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
        )
        try:
            async with asyncio.timeout(self._timeout):
                await self._exchange.publish(message, self._names.routing_key, mandatory=True)
                return await answer
        except (aio_pika.exceptions.AMQPError, OSError, RuntimeError) as error:
            raise NoAnswer(type(error).__name__) from error
        finally:
            del self._waiting[correlation_id]

    async def _take(self, message: AbstractIncomingMessage) -> None:
        waiting = self._waiting.get(message.correlation_id or "")
        if waiting is not None and not waiting.done():
            waiting.set_result(RawAnswer(message.body, IDEMPOTENT_REPLAYED in message.headers))
