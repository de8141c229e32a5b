"""What is done once, or to find out: topology, schemas, the ledger's schema."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

import typer

from session_worker.cli import command_settings, streams, terminal
from session_worker.loop import PlainLoop

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from session_worker.broker.connection import Connection
    from session_worker.broker.marker import Owner
    from session_worker.broker.topology import Topology
    from session_worker.operators.doctor.result import Result
    from session_worker.settings import Settings

T = TypeVar("T")


def schema(of: str, prefix: str | None) -> None:
    """Print a model's JSON Schema, or all there is to the connection as an AsyncAPI document."""
    from session_contracts import CreateSessionRequest, CreateSessionResponse, asyncapi
    from session_contracts.amqp import Names

    documents: dict[str, Callable[[], dict[str, Any]]] = {
        "request": CreateSessionRequest.model_json_schema,
        "response": CreateSessionResponse.model_json_schema,
        "asyncapi": lambda: asyncapi.document(Names(command_settings.load_only(prefix=prefix).prefix)),
    }
    if of not in documents:
        raise typer.BadParameter("write request, response or asyncapi.", param_hint="WHAT")
    streams.write_document(documents[of](), indent=2)


def topology_apply(*, adopt: bool, ledger_url: str | None, **flags: str | None) -> None:
    """Declare what the worker needs; ``adopt``: and have it belong to this ledger."""
    from session_contracts import Names
    from session_worker.broker import marker
    from session_worker.broker.topology import TopologyError

    if ledger_url is not None and not adopt:
        raise typer.BadParameter("only --adopt-ledger takes a ledger.", param_hint="--ledger-url")
    loaded = command_settings.load_only(**flags, **({"ledger_url": ledger_url} if adopt else {}))
    names = Names(loaded.prefix)
    ledger = None
    if adopt:
        with asyncio.Runner(loop_factory=PlainLoop) as runner:
            ledger = runner.run(_identified(loaded))

    async def apply(topology: Topology, connection: Connection) -> None:
        await topology.apply(connection)
        await marker.declare(connection, names.ledger, anew=ledger is not None)
        if ledger is not None:
            owner = await marker.mark(connection, names.ledger, ledger)
            if owner.identity != ledger.identity:  # a worker that runs, or another operator, was faster
                raise TopologyError(marker.mismatch(names, owner))

    asyncio.run(_at_broker(loaded, apply))
    topology = _topology(loaded)
    terminal.results().print(f"Exchange {topology.exchange} and {len(topology.queues)} queues are there.")
    if ledger is not None:
        terminal.results().print(f"They belong to the ledger {ledger.name}.")


async def _identified(loaded: Settings) -> Owner:
    from session_worker.broker.marker import Owner
    from session_worker.ledger import name_of, open_reader

    url = loaded.ledger_url.get_secret_value()
    reader = open_reader(url)
    try:
        await reader.open()
        return Owner(await reader.identity(), name_of(url))
    finally:
        await reader.close()


def topology_check(**flags: str | None) -> int:
    """Print every difference between the broker and what the worker needs; 1 if there are any."""
    from session_worker.operators.doctor.result import folded

    loaded = command_settings.load_only(**flags)
    results = folded(asyncio.run(_at_broker(loaded, _compare)))
    differences = [f"{each.name}: {each.found}; {each.fix}" for each in results if each.fix]
    topology = _topology(loaded)
    fine = f"Exchange {topology.exchange} and {len(topology.queues)} queues are as the worker needs them."
    for line in differences or [fine]:
        terminal.results().print(line)
    return 1 if differences else 0


async def _compare(topology: Topology, connection: Connection) -> list[Result]:
    from session_worker.operators.doctor.broker import difference
    from session_worker.operators.doctor.result import ok

    return [
        difference(found.part, found.trouble) if found.trouble else ok(found.part, "as needed")
        async for found in topology.inspect(connection)
    ]


async def _at_broker(loaded: Settings, work: Callable[[Topology, Connection], Awaitable[T]]) -> T:
    from session_worker.broker.connection import Connection

    connection = await Connection.open(loaded.amqp_urls, "topology")
    try:
        return await work(_topology(loaded), connection)
    finally:
        await connection.close()


def _topology(loaded: Settings) -> Topology:
    from session_contracts import Names
    from session_worker.broker.topology import Topology

    return Topology.of(Names(loaded.prefix), loaded.retry_delays)


def ledger_upgrade(*, ledger_url: str | None) -> None:
    """Bring the ledger's schema to this version."""
    from session_worker.ledger import upgrade

    loaded = command_settings.load_only(ledger_url=ledger_url)
    with asyncio.Runner(loop_factory=PlainLoop) as runner:
        before, after = runner.run(upgrade(loaded.ledger_url.get_secret_value()))
    done = f"is at version {after} already" if before == after else f"went from version {before} to {after}"
    terminal.results().print(f"The ledger's schema {done}.")


def ledger_copy(source: str, *, ledger_url: str | None) -> None:
    """Copy a SQLite ledger into an empty PostgreSQL one."""
    from session_worker.cli import interrupts
    from session_worker.ledger.copy import copy

    loaded = command_settings.load_only(ledger_url=ledger_url)
    with asyncio.Runner(loop_factory=PlainLoop) as runner:
        requests, sessions = interrupts.run(runner, copy(source, loaded.ledger_url.get_secret_value()))
    terminal.results().print(f"{requests:,} requests and {sessions:,} sessions were copied.")
