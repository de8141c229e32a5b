"""What can be checked at the broker, by AMQP alone."""

from __future__ import annotations

import asyncio
import re
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING
from uuid import uuid4

from aio_pika.exceptions import ChannelClosed
from yarl import URL

from session_client.net.aiormq_errors import broker_errors
from session_client.net.errors import ConnectError, ForbiddenError, LinkLostError
from session_client.net.urls import port_of, vhost_of
from session_contracts import Names
from session_worker.broker import marker
from session_worker.broker.connection import Connection
from session_worker.broker.publisher import Publisher
from session_worker.broker.topology import NotPermittedError, TopologyError
from session_worker.operators.doctor.result import (
    CHECK_SECONDS,
    Result,
    State,
    failed,
    from_error,
    no_answer,
    ok,
    skipped,
    warning,
)
from session_worker.operators.operations import topology

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from aio_pika.abc import AbstractChannel

    from session_worker.broker.topology import Found
    from session_worker.operators.operations import Known
    from session_worker.settings import Settings

OLDEST, NEWEST = (3, 10), (4, 99)
TRAPS = (
    ((3, 10), (3, 11), "a broker that was upgraded needs its feature flag stream_queue enabled"),
    ((3, 10), (3, 13), "a forged x-death header can make the request that bears it vanish"),
)
"""What an operator must know of some versions: from, to, what. The worker copes with all of them."""


@dataclass(slots=True)
class BrokerFindings:
    """``found``: by part; empty when the broker was not reached. ``blocked``: there is an alarm. ``owner``:
    the ledger that the queues belong to. (None: nobody knows.)"""

    results: list[Result] = field(default_factory=list)
    found: dict[str, Found] = field(default_factory=dict)
    blocked: bool | None = None
    owner: marker.Owner | None = None

    def queue(self, name: str) -> Found | None:
        return self.found.get(f"queue {name}")

    def consumers(self, queue: str) -> int | None:
        """Count the consumers; None: nobody knows."""
        found = self.queue(queue)
        return found.consumers if found else None


async def examine(settings: Settings, operations: Sequence[Known]) -> BrokerFindings:
    findings = BrokerFindings()
    nodes = await asyncio.gather(*(_reach(url) for url in settings.amqp_urls))
    connections = [connection for _, connection in nodes if connection is not None]
    # A worker goes to any node that answers.
    findings.results += [
        replace(result, state=State.WARNING) if connections and result.state is State.FAILED else result
        for result, _ in nodes
    ]
    try:
        if connections:
            await _examine(settings, operations, connections[0], findings)
        else:
            findings.results += [
                skipped(name, "the broker must be reached first")
                for name in ("version", "queues", "permissions", "alarms")
            ]
    finally:
        await asyncio.gather(*(connection.close() for connection in connections))
    return findings


async def _examine(
    settings: Settings, operations: Sequence[Known], connection: Connection, findings: BrokerFindings
) -> None:
    findings.results.append(version(*connection.server))
    name = "queues"
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            await _queues(settings, operations, connection, findings)
        name = "permissions"
        async with asyncio.timeout(CHECK_SECONDS):
            await _permissions(settings, operations, connection, findings)
    except TimeoutError:
        findings.results.append(no_answer(name, "the broker"))
    except LinkLostError as lost:
        findings.results.append(failed(name, f"the connection was lost meanwhile ({lost})", "run this again"))
    else:
        findings.results.append(alarms(findings.blocked))
        with suppress(LinkLostError, TimeoutError):  # the stream is missing, or this user may not read it
            async with asyncio.timeout(CHECK_SECONDS):
                owner = marker.read(connection, Names(settings.prefix).ledger, wait=CHECK_SECONDS)
                findings.owner = await connection.unless_lost(owner)


async def _reach(url: str) -> tuple[Result, Connection | None]:
    parsed = URL(url)
    try:
        connection = await Connection.open([url], "doctor")
    except ConnectError as error:
        return from_error(
            "broker", error, "check that it runs and can be reached, or correct SESSION_WORKER_AMQP_URL"
        ), None
    place = f"{parsed.host}:{port_of(parsed)}, vhost {vhost_of(parsed)}"
    return ok("broker", f"{' '.join(connection.server)} at {place}"), connection


def version(product: str, number: str) -> Result:
    """Judge the version, and tell what to keep in mind with it."""
    digits = re.match(r"(\d+)\.(\d+)", number)
    if product != "RabbitMQ" or digits is None:
        found = f"{product} {number} is not RabbitMQ, whose quorum queues and confirms the worker relies on"
        return warning("version", found, "use RabbitMQ 3.10 to 4.x")
    release = (int(digits[1]), int(digits[2]))
    if release < OLDEST:
        found = f"RabbitMQ {number} may lose what it dead-letters, and its quorum queues know no message TTL"
        return failed("version", found, "upgrade it to 3.10 or later")
    if release > NEWEST:
        found = f"RabbitMQ {number} is newer than any that this worker was tested with"
        return warning("version", found, "look for a later release of the worker")
    notes = [what for first, last, what in TRAPS if first <= release <= last]
    return ok("version", "; ".join([f"RabbitMQ {number}", *notes]))


def _not_permitted(found: Found) -> bool:
    return isinstance(found.trouble, NotPermittedError)


async def _queues(
    settings: Settings, operations: Sequence[Known], connection: Connection, findings: BrokerFindings
) -> None:
    names = Names(settings.prefix)
    dead = {f"queue {names.of(each.key).dead}" for each in operations}
    async for found in topology(settings.prefix, operations).inspect(connection):
        findings.found[found.part] = found
        findings.results.append(_part(found, is_dead=found.part in dead))


def difference(part: str, trouble: TopologyError) -> Result:
    """Report how an exchange or a queue differs from what the worker needs."""
    told = from_error(part, trouble, "run `session-worker topology apply`")
    return replace(told, found=told.found.removeprefix(f"{part}: "))


def _part(found: Found, *, is_dead: bool) -> Result:
    if found.trouble and not _not_permitted(found):
        return difference(found.part, found.trouble)
    if found.trouble and found.messages is None:
        return skipped(found.part, "this user lacks the permission to compare it")
    note = "; its arguments were not compared: this user may not declare it" if found.trouble else ""
    if found.messages is None:
        return ok(found.part, "is there")
    count = f"{found.messages:,} message{' waits' if found.messages == 1 else 's wait'}"
    if is_dead and found.messages:
        return warning(
            found.part,
            f"{count.replace('message', 'dead letter')} for an operator{note}",
            "see why with `session-worker dead groups`, then `session-worker dead redrive` or `purge`",
        )
    return ok(found.part, f"{count}{note}")


# ------------------------------------------------------------------------------------- permissions


async def _permissions(
    settings: Settings, operations: Sequence[Known], connection: Connection, findings: BrokerFindings
) -> None:
    every = [Names(settings.prefix, each.key) for each in operations]
    # A pattern that leaves one queue out mostly leaves out others too: the first one tells.
    troubles: list[TopologyError | LinkLostError | None] = [
        await _first_refusal(
            connection,
            (partial(_consume, queue=queue) for names in every for queue in (names.work, names.undelivered)),
            queue="read",
        )
    ]
    if settings.declare:
        unbinding = (partial(_unbind, names=names) for names in every)
        forbidden = (found.trouble for found in findings.found.values() if _not_permitted(found))
        troubles.append(
            next(forbidden, None)
            or await _first_refusal(connection, unbinding, queue="write", exchange="read")
        )
    try:
        findings.blocked = await _blocked(settings)
    except ForbiddenError as error:
        troubles.append(error)
    told = [from_error("permissions", trouble, "grant it") for trouble in troubles if trouble]
    may = "consume, publish and declare" if settings.declare else "consume and publish"
    user = URL(settings.amqp_urls[0]).user or "guest"
    findings.results += told or [ok("permissions", f"user {user} may {may}")]


async def _first_refusal(
    connection: Connection,
    asking: Iterable[Callable[[AbstractChannel], Awaitable[object]]],
    *,
    queue: str,
    exchange: str = "",
) -> ForbiddenError | None:
    for ask in asking:
        if refusal := await _refusal(connection, ask, queue=queue, exchange=exchange):
            return refusal
    return None


async def _refusal(
    connection: Connection,
    ask: Callable[[AbstractChannel], Awaitable[object]],
    *,
    queue: str,
    exchange: str = "",
) -> ForbiddenError | None:
    """Ask; return the permission on ``queue`` or ``exchange`` that this user lacks, if it lacks one."""
    try:
        async with connection.channel() as channel:
            with broker_errors(queue=queue, exchange=exchange):
                await ask(channel)
    except ForbiddenError as forbidden:
        return forbidden
    except LinkLostError as lost:
        if not isinstance(lost.__cause__, ChannelClosed):
            raise
    return None


async def _consume(channel: AbstractChannel, queue: str) -> None:
    """Consume with an argument that no broker accepts. It checks the permission first; no delivery comes."""
    await channel.set_qos(prefetch_count=1)
    consumed = await channel.get_queue(queue, ensure=False)
    await consumed.consume(_unused, arguments={"x-priority": "none"})


async def _unused(_: object) -> None:
    """No delivery comes."""


async def _unbind(channel: AbstractChannel, names: Names) -> None:
    """Unbind what was never bound: it changes nothing and takes the same permissions as binding."""
    work = await channel.get_queue(names.work, ensure=False)
    await work.unbind(names.exchange, f"doctor.{uuid4()}")


async def _blocked(settings: Settings) -> bool:
    """Find out whether there is an alarm, by publishing to no queue.

    It takes its own connection, from which a broker with an alarm reads no more.

    Raises:
        ForbiddenError: this user may not publish.
    """

    async def probe_twice() -> None:  # the broker tells of an alarm before it takes the second
        await publisher.probe()
        await publisher.probe()

    connect = partial(Connection.open, settings.amqp_urls)
    connection = await connect("doctor")
    publisher = Publisher(connection, connect)
    told = asyncio.Event()
    connection.watchers.append(told.set)
    tasks = asyncio.ensure_future(told.wait()), asyncio.ensure_future(probe_twice())
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if not connection.blocked:
            await tasks[1]
        return connection.blocked
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        await asyncio.gather(publisher.close(), connection.close())


def alarms(blocked: bool | None) -> Result:
    if blocked is None:
        return skipped("alarms", "only a user that may publish can find out")
    if blocked:
        return failed(
            "alarms",
            "the broker has an alarm (memory or disk) and accepts nothing from publishers",
            "free memory or disk at its nodes; `rabbitmq-diagnostics alarms` names them",
        )
    return ok("alarms", "none: the broker confirms what is published")
