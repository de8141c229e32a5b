"""Which ledger a work queue belongs to, as the broker knows it.

A marker is a stream beside the queue, whose first message names the ledger. A stream keeps its messages in
order: if several workers write at once, the first one wins and all read the same. Reading it takes the
permission to read the stream, and removes nothing. Writing takes that to publish to the default exchange,
which replies need too.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from aio_pika import Message

from session_client.net.diagnosis import Diagnosis
from session_client.net.errors import LinkLostError
from session_worker.broker.connection import SETUP_SECONDS
from session_worker.messages.immutable import immutable

if TYPE_CHECKING:
    from aio_pika.abc import AbstractIncomingMessage

    from session_contracts.amqp import Names
    from session_worker.broker.connection import Connection

ARGUMENTS: dict[str, Any] = {"x-queue-type": "stream"}
READ_SECONDS = 0.5
"""How long to listen before a stream counts as empty: what is in it comes at once."""


@immutable
class Owner:
    """The ledger that a marker names: its identity, and what it is called."""

    identity: str
    name: str


def mismatch(names: Names, owner: Owner) -> Diagnosis:
    """Say that the queues belong to another ledger, and what to do."""
    return Diagnosis(
        f"queue {names.work}: belongs to another ledger, {owner.name} (made {owner.identity})",
        "name that one in SESSION_WORKER_LEDGER_URL, or have this one adopt the queues with `session-worker "
        "topology apply --adopt-ledger`",
    )


async def mark(connection: Connection, marker: str, ours: Owner) -> Owner:
    """Have ``marker`` name ``ours``, unless it names a ledger already. Return the one that it names.

    Raises:
        LinkLostError: the marker is missing, may not be read or written, does not answer, or the connection
        is
            gone.
    """
    named = await read(connection, marker)
    if named is None:
        message = Message(f"{ours.identity} {ours.name}".encode())
        async with connection.channel(confirms=True) as channel:
            await channel.default_exchange.publish(message, marker, timeout=SETUP_SECONDS)
        named = await read(connection, marker, wait=SETUP_SECONDS)
    if named is None:
        raise LinkLostError(f"stream {marker} does not give what was written to it")
    return named


async def declare(connection: Connection, marker: str, *, anew: bool = False) -> None:
    """Declare the marker; ``anew``: so that it names no ledger. Raises LinkLostError."""
    async with connection.channel() as channel:
        if anew:
            await channel.queue_delete(marker, timeout=SETUP_SECONDS)
        await channel.declare_queue(marker, durable=True, arguments=ARGUMENTS, timeout=SETUP_SECONDS)


async def read(connection: Connection, marker: str, wait: float = READ_SECONDS) -> Owner | None:
    """Return the ledger that ``marker`` names, or None if it names none. Raises LinkLostError as ``mark``."""
    found: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def hear(message: AbstractIncomingMessage) -> None:
        if not found.done():
            found.set_result(message.body)

    async with connection.channel() as channel:
        await channel.set_qos(prefetch_count=1, timeout=SETUP_SECONDS)
        stream = await channel.get_queue(marker, ensure=False)
        await stream.consume(hear, arguments={"x-stream-offset": "first"}, timeout=SETUP_SECONDS)
        either: set[asyncio.Future[Any]] = {found, connection.lost}
        await asyncio.wait(either, timeout=wait, return_when=asyncio.FIRST_COMPLETED)
    if not found.done():
        return None
    identity, _, name = found.result().decode(errors="replace").partition(" ")
    return Owner(identity, name)
