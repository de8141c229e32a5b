"""The exchange and queues at the broker, declared or compared by an operator."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from session_contracts import Names
from session_worker.broker import marker
from session_worker.broker.connection import Connection
from session_worker.broker.topology import TopologyError
from session_worker.ledger import name_of
from session_worker.operators import entries, operations
from session_worker.operators.doctor.broker import difference
from session_worker.operators.doctor.result import ok

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from session_worker.broker.topology import Topology
    from session_worker.operators.doctor.result import Result
    from session_worker.settings import Settings


def needed(settings: Settings) -> Topology:
    """What a worker with these settings needs.

    Raises:
        AppError: the app cannot be served.
    """
    return operations.topology(settings.prefix, operations.known(settings))


async def apply(settings: Settings, *, adopt: bool = False) -> marker.Owner | None:
    """Declare what a worker needs. With ``adopt``, make it belong to the settings' ledger, and return that.

    Raises:
        AppError, LedgerError, LinkLostError: the app, the ledger or the broker cannot be used.
        TopologyError: something is there with other arguments, or somebody else adopted it meanwhile.
    """
    names = Names(settings.prefix)
    ledger = await _identify_ledger(settings) if adopt else None
    async with _connected(settings) as connection:
        await needed(settings).apply(connection)
        await marker.declare(connection, names.ledger, anew=adopt)
        if ledger is not None:
            owner = await marker.mark(connection, names.ledger, ledger)
            if owner.identity != ledger.identity:  # a worker that runs, or another operator, was faster
                raise TopologyError(marker.mismatch(names, owner))
    return ledger


async def compare(settings: Settings) -> list[Result]:
    """Compare each part at the broker with what a worker needs. Raises AppError, LinkLostError."""
    async with _connected(settings) as connection:
        return [
            difference(found.part, found.trouble) if found.trouble else ok(found.part, "as needed")
            async for found in needed(settings).inspect(connection)
        ]


async def _identify_ledger(settings: Settings) -> marker.Owner:
    async with entries.reader(settings) as reader:
        return marker.Owner(await reader.identity(), name_of(settings.ledger_url.get_secret_value()))


@asynccontextmanager
async def _connected(settings: Settings) -> AsyncIterator[Connection]:
    connection = await Connection.open(settings.amqp_urls, "topology")
    try:
        yield connection
    finally:
        await connection.close()
