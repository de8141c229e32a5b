"""The client of a worker under test: the methods and errors of ``SessionClient``, without a connection."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from session_client import ClientClosed, RequestNotRouted, RequestTimedOut, SessionClient
from session_client.calls import Calls
from session_worker.messages.message import Message, Properties

if TYPE_CHECKING:
    import aio_pika

    from session_client.call import Call
    from session_contracts import Names
    from session_worker.testing.broker import MemoryBroker
    from session_worker.testing.clock import Clock
    from session_worker.testing.passing import Passing


class MemoryCalls(Calls):
    """The calls of one client. Each lets time pass until it has its reply, or its timeout is over."""

    def __init__(self, names: Names, broker: MemoryBroker, clock: Clock, passing: Passing) -> None:
        self._names = names
        self._broker = broker
        self._clock = clock
        self._passing = passing
        self._reply_to = f"{names.replies}.client"
        self._calls: dict[str | None, Call[Any, Any]] = {}
        self._is_open = False
        broker.listeners[self._reply_to] = self._receive

    async def start(self, *, wait: bool) -> None:  # noqa: ARG002
        """There is nothing to connect to."""
        self._is_open = True

    async def stop(self) -> None:
        self._is_open = False

    async def ask(self, call: Call[Any, Any]) -> None:
        """Send the request of a call, and wait for its reply.

        Raises:
            ClientClosed, RequestNotRouted, RequestTimedOut: it gets none.
        """
        request_id = call.request.request_id
        if not self._is_open:
            raise ClientClosed(
                f"request {request_id} was not sent: the client works within `async with TestWorker(…)` only"
            )
        queue = self._names.of(call.operation.key).work
        if not self._broker.has(queue):
            raise RequestNotRouted(
                request_id, f"the app under test does not serve operation {call.operation.name}"
            )
        self._calls[call.correlation_id] = call
        try:
            await self._broker.publish(as_published(queue, call.message(self._reply_to)))
            await self._passing.until(self._clock.now() + timedelta(seconds=call.timeout), call.replied)
        finally:
            del self._calls[call.correlation_id]
        if not call.replied.done():
            raise RequestTimedOut(request_id, call.timeout)

    def _receive(self, message: Message) -> None:
        if call := self._calls.get(message.properties.correlation_id):
            call.take(message.body)


class MemoryClient(SessionClient):
    """``SessionClient`` whose calls reach the worker of a test."""

    def __init__(self, calls: MemoryCalls) -> None:
        self._begin(calls)


def as_published(queue: str, message: aio_pika.Message) -> Message:
    """A message of the client's as the broker has it in ``queue``."""
    sent = message.properties
    return Message(
        queue,
        message.body,
        Properties(
            content_type=sent.content_type,
            headers=dict(sent.headers or {}),
            persistent=True,
            correlation_id=sent.correlation_id,
            reply_to=sent.reply_to,
            expiration=sent.expiration,
            message_id=sent.message_id,
            timestamp=int(sent.timestamp.timestamp()) if sent.timestamp else None,
            type=sent.message_type,
        ),
    )
