"""Which ledger a work queue belongs to, as the broker knows it.

A marker is a stream beside the queue, whose first message names the ledger. The stream keeps messages in the
order in which they came: of several workers that write at once the first one wins, and all of them read the
same. To read takes the permission to read the stream, and removes nothing; to write takes that to publish to
the default exchange, as replies do.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import aiormq

from session_client.net.aiormq_errors import broker_errors
from session_client.net.diagnosis import Diagnosis
from session_client.net.errors import LinkLostError
from session_worker.broker.connection import SETUP_SECONDS
from session_worker.messages.immutable import immutable

if TYPE_CHECKING:
    from aiormq.abc import DeliveredMessage

    from session_contracts.amqp import Names
    from session_worker.broker.connection import Connection

ARGUMENTS: dict[str, Any] = {"x-queue-type": "stream"}
READ_SECONDS = 0.5
"""How long an empty stream is listened to: what is in it comes at once."""


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
        LinkLostError: the marker is not there, may not be read or written, does not tell, or the connection
            is gone.
    """
    named = await read(connection, marker)
    if named is None:
        body = f"{ours.identity} {ours.name}".encode()
        channel = await connection.channel(aiormq.Channel, confirms=True)
        with broker_errors():
            await channel.basic_publish(body, routing_key=marker, mandatory=True, timeout=SETUP_SECONDS)
            await channel.close()
        named = await read(connection, marker, wait=SETUP_SECONDS)
    if named is None:
        raise LinkLostError(f"stream {marker} does not give what was written to it")
    return named


async def declare(connection: Connection, marker: str, *, anew: bool = False) -> None:
    """Have the marker there; ``anew``: naming no ledger. Raises LinkLostError."""
    channel = await connection.channel(aiormq.Channel)
    with broker_errors():
        if anew:
            await channel.queue_delete(marker, timeout=SETUP_SECONDS)
        await channel.queue_declare(marker, durable=True, arguments=ARGUMENTS, timeout=SETUP_SECONDS)
        await channel.close()


async def read(connection: Connection, marker: str, wait: float = READ_SECONDS) -> Owner | None:
    """The ledger that ``marker`` names, if it names one. Raises LinkLostError as ``mark``."""
    found: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def hear(message: DeliveredMessage) -> None:
        if not found.done():
            found.set_result(message.body)

    channel = await connection.channel(aiormq.Channel)
    with broker_errors():
        await channel.basic_qos(prefetch_count=1, timeout=SETUP_SECONDS)
        await channel.basic_consume(
            marker, hear, arguments={"x-stream-offset": "first"}, timeout=SETUP_SECONDS
        )
        either: set[asyncio.Future[Any]] = {found, connection.lost}
        await asyncio.wait(either, timeout=wait, return_when=asyncio.FIRST_COMPLETED)
        await channel.close()
    if not found.done():
        return None
    identity, _, name = found.result().decode(errors="replace").partition(" ")
    return Owner(identity, name)
