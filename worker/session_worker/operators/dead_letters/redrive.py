"""A redrive: dead letters go through the worker again."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

import pydantic

from session_contracts import Names, amqp
from session_worker.broker.connection import Connection
from session_worker.broker.publisher import Publisher
from session_worker.ledger import open_ledger
from session_worker.ledger.protocol import Reopened
from session_worker.operators import entries
from session_worker.operators.dead_letters.letter import Fate
from session_worker.operators.dead_letters.parking_lot import ready
from session_worker.requests.copies import copy_of
from session_worker.requests.parse import identify
from session_worker.requests.request import NIL_ID

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from typing import Self

    from session_worker.ledger.protocol import Ledger
    from session_worker.operators.dead_letters.letter import DeadLetter, Filter
    from session_worker.operators.dead_letters.parking_lot import ParkingLot
    from session_worker.settings import Settings


class Sender:
    """Publishes copies of letters to the work queues of their operations."""

    def __init__(self, connection: Connection, publisher: Publisher, names: Names) -> None:
        self.connection = connection
        self._names = names
        self._publisher = publisher

    @classmethod
    @asynccontextmanager
    async def open(cls, settings: Settings) -> AsyncIterator[Self]:
        """Raises:
        LinkLostError: the broker cannot be reached, or does not let this user publish.
        """

        connect = partial(Connection.open, settings.amqp_urls)
        connection = await connect("redrive")
        publisher = Publisher(connection, connect)
        sweeper = asyncio.create_task(publisher.run(), name="confirm sweeper")
        try:
            await publisher.probe()  # before anything is re-opened in vain
            yield cls(connection, publisher, Names(settings.prefix))
        finally:
            sweeper.cancel()
            await asyncio.gather(publisher.close(), connection.close())

    async def check(self, parking_lot: ParkingLot) -> None:
        """Check that what lies there has somewhere to go. Raises TopologyError, LinkLostError."""
        for operation, count in parking_lot.counts.items():
            if count:
                await ready(self.connection, self._names.of(operation.key).work)

    async def send(self, letter: DeadLetter) -> None:
        """Publish a copy to the work queue; return when the broker has confirmed it.

        Raises:
            PublishError: the broker did not take it.
            LinkLostError: the connection was lost; nothing is known about the copy.
        """
        headers = {
            amqp.REQUEST_ID: str(letter.request_id or NIL_ID),
            amqp.REDRIVE_COUNT: letter.redrives + 1,
        }
        queue = self._names.of(letter.operation.key).work
        await self._publisher.publish(copy_of(letter.delivery, queue, headers))


@asynccontextmanager
async def operators_ledger(settings: Settings) -> AsyncIterator[Ledger]:
    """Open the ledger for redrives; unlike a worker, never make or upgrade it.

    Raises:
        LedgerError: it cannot be used.
    """
    async with entries.reader(settings):
        pass
    name = f"operator-{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
    url = settings.ledger_url.get_secret_value()
    ledger = open_ledger(url, worker_id=name, holder_timeout=settings.holder_timeout)
    await ledger.open()
    try:
        yield ledger
    finally:
        await ledger.close()


async def redrive(
    parking_lot: ParkingLot,
    wanted: Filter,
    limit: int | None,
    *,
    ledger: Ledger,
    sender: Sender,
    unknown: bool = False,
) -> AsyncIterator[Fate]:
    """Send ``limit`` letters wanted to the workers again; yield what became of each.

    For each letter: re-open its entry and commit, publish a copy and wait for the confirm, drop the letter.
    If this process is killed in between, the letter is still on the parking lot and the next redrive
    continues: a copy that was sent twice finds its request waiting, running or finished. With ``unknown``,
    letters that the ledger does not know are sent as well, as new requests.

    Raises:
        TopologyError: a work queue is missing; nothing was sent.
        PublishError, LinkLostError: the broker takes no more. What was not sent is still on the parking lot.
    """
    await sender.check(parking_lot)

    async def redrive_one(letter: DeadLetter) -> Fate:
        fate = letter.outlook
        if fate is Fate.REOPENED:
            fate = await _reopen(letter, ledger)
        if fate is Fate.UNKNOWN and unknown:
            fate = Fate.RESENT
        if not fate.stays:
            await sender.send(letter)
            parking_lot.drop(letter)
        return fate

    async for page in parking_lot.matching(wanted, limit):
        results = await asyncio.gather(*map(redrive_one, page), return_exceptions=True)
        for fate in results:
            if isinstance(fate, Fate):
                yield fate
        for error in results:
            if isinstance(error, BaseException):
                raise error


async def _reopen(letter: DeadLetter, ledger: Ledger) -> Fate:
    try:
        request, fingerprint = letter.operation.read(letter.delivery.document)
    except pydantic.ValidationError:
        return Fate.RESENT
    in_body = request.request_id if "request_id" in request.model_fields_set else None
    request_id = identify(letter.delivery, in_body)
    return Fate.RESENT if request_id is None else _FATES[await ledger.reopen(request_id, fingerprint)]


_FATES = {
    Reopened.REOPENED: Fate.REOPENED,
    Reopened.OPEN: Fate.RESENT,
    Reopened.FINISHED: Fate.RESENT,
    Reopened.UNKNOWN: Fate.UNKNOWN,
    Reopened.MISMATCH: Fate.CONFLICT,
}
