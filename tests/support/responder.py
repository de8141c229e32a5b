"""A stand-in for a worker: consumes the work queue and answers as the test tells it to."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import aio_pika

from session_contracts import (
    CreateSessionRequest,
    CreateSessionResponse,
    ErrorCode,
    Names,
    RequestStatus,
    SessionCreatedPayload,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from aio_pika.abc import AbstractChannel, AbstractIncomingMessage

TIMEOUT = 10.0


def answer(message: AbstractIncomingMessage) -> bytes:
    """A completed response; the session id is made of the request id, so it tells whose answer it is."""
    request = CreateSessionRequest.model_validate_json(message.body)
    return _response(request, RequestStatus.COMPLETED)


def refusal(message: AbstractIncomingMessage) -> bytes:
    """A failed response with code ``rejected``."""
    request = CreateSessionRequest.model_validate_json(message.body)
    metadata = {"error_code": ErrorCode.REJECTED, "retryable": False}
    return _response(request, RequestStatus.FAILED, error="the case is closed", metadata=metadata)


def session_id_of(request_id: object) -> str:
    return f"ts_251013_{str(request_id).replace('-', '')}"


def _response(request: CreateSessionRequest, status: RequestStatus, **fields: object) -> bytes:
    payload = SessionCreatedPayload(
        session_id=session_id_of(request.request_id),
        casefile_id=request.payload.casefile_id,
        created_at="2025-10-13T14:30:00Z",
    )
    response = CreateSessionResponse.model_validate(
        {"request_id": request.request_id, "status": status, "payload": payload, **fields}
    )
    return response.model_dump_json().encode()


class Responder:
    """``make_reply`` decides the body; ``copies`` how often it is sent; ``ignore`` how many requests, counted
    from the first, get no reply; while ``may_reply`` is not set every reply waits."""

    def __init__(self, channel: AbstractChannel, names: Names) -> None:
        self.names = names
        self.requests: list[AbstractIncomingMessage] = []
        self.make_reply: Callable[[AbstractIncomingMessage], bytes] = answer
        self.copies = 1
        self.ignore = 0
        self.may_reply = asyncio.Event()
        self.may_reply.set()
        self._channel = channel
        self._arrived = asyncio.Condition()

    async def declare(self) -> None:
        exchange = await self._channel.declare_exchange(self.names.exchange, "topic", durable=True)
        queue = await self._channel.declare_queue(
            self.names.work, durable=True, arguments={"x-queue-type": "quorum"}
        )
        await queue.bind(exchange, self.names.routing_key)
        await queue.consume(self._on_request, no_ack=True)

    async def received(self, count: int) -> None:
        """Wait until so many requests have arrived."""
        async with asyncio.timeout(TIMEOUT), self._arrived:
            await self._arrived.wait_for(lambda: len(self.requests) >= count)

    async def reply(self, message: AbstractIncomingMessage) -> None:
        for _ in range(self.copies):
            await self._channel.default_exchange.publish(
                aio_pika.Message(
                    self.make_reply(message),
                    correlation_id=message.correlation_id,
                    delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
                ),
                routing_key=message.reply_to or "",
                mandatory=False,
            )

    async def _on_request(self, message: AbstractIncomingMessage) -> None:
        async with self._arrived:
            self.requests.append(message)
            number = len(self.requests)
            self._arrived.notify_all()
        if number > self.ignore:
            await self.may_reply.wait()
            await self.reply(message)


@asynccontextmanager
async def responding(amqp_url: str, names: Names | None = None) -> AsyncIterator[Responder]:
    """Exchange, work queue and a stand-in worker on it."""
    connection = await aio_pika.connect(amqp_url, timeout=TIMEOUT)
    async with connection:
        responder = Responder(await connection.channel(), names or Names())
        await responder.declare()
        yield responder
