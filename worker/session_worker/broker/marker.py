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

from session_worker.broker.connection import SETUP_SECONDS
from session_worker.broker.failures import broker_errors
from session_worker.messages.errors import LinkLostError
from session_worker.messages.values import value

if TYPE_CHECKING:
    from aiormq.abc import DeliveredMessage

    from session_contracts.amqp import Names
    from session_worker.broker.connection import Wire
    from session_worker.ledger.protocol import Opened

ARGUMENTS: dict[str, Any] = {"x-queue-type": "stream"}
READ_SECONDS = 0.5
"""How long an empty stream is listened to: what is in it comes at once."""


@value
class Ledger:
    """What a marker says: see ``Opened``."""

    identity: str
    name: str

    @classmethod
    def of(cls, opened: Opened) -> Ledger:
        return cls(opened.identity, opened.name)


def mismatch(names: Names, owner: Ledger) -> str:
    """Say that the queues belong to another ledger, and what to do."""
    return (
        f"queue {names.work}: belongs to another ledger, {owner.name} (made {owner.identity}); name that one "
        "in SESSION_WORKER_LEDGER_URL, or have this one adopt the queues with `session-worker topology apply "
        "--adopt-ledger`"
    )


async def owner(wire: Wire, marker: str, ledger: Ledger) -> Ledger:
    """The ledger that ``marker`` names; it names ``ledger`` from now on if it has named none so far.

    Raises:
        LinkLostError: the marker is not there, may not be read or written, does not tell, or the connection
            is gone.
    """
    named = await first(wire, marker)
    if named is None:
        body = f"{ledger.identity} {ledger.name}".encode()
        channel = await wire.channel(aiormq.Channel, confirms=True)
        with broker_errors():
            await channel.basic_publish(body, routing_key=marker, mandatory=True, timeout=SETUP_SECONDS)
            await channel.close()
        named = await first(wire, marker, wait=SETUP_SECONDS)
    if named is None:
        raise LinkLostError(f"stream {marker} does not give what was written to it")
    return named


async def declare(wire: Wire, marker: str, *, anew: bool = False) -> None:
    """Have the marker there; ``anew``: naming no ledger. Raises LinkLostError."""
    channel = await wire.channel(aiormq.Channel)
    with broker_errors():
        if anew:
            await channel.queue_delete(marker, timeout=SETUP_SECONDS)
        await channel.queue_declare(marker, durable=True, arguments=ARGUMENTS, timeout=SETUP_SECONDS)
        await channel.close()


async def first(wire: Wire, marker: str, wait: float = READ_SECONDS) -> Ledger | None:
    """The ledger that ``marker`` names, if it names one. Raises LinkLostError as ``owner``."""
    found: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def hear(message: DeliveredMessage) -> None:
        if not found.done():
            found.set_result(message.body)

    channel = await wire.channel(aiormq.Channel)
    with broker_errors():
        await channel.basic_qos(prefetch_count=1, timeout=SETUP_SECONDS)
        await channel.basic_consume(
            marker, hear, arguments={"x-stream-offset": "first"}, timeout=SETUP_SECONDS
        )
        either: set[asyncio.Future[Any]] = {found, wire.lost}
        await asyncio.wait(either, timeout=wait, return_when=asyncio.FIRST_COMPLETED)
        await channel.close()
    if not found.done():
        return None
    identity, _, name = found.result().decode(errors="replace").partition(" ")
    return Ledger(identity, name)
