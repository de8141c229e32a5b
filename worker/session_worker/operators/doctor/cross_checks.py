"""Checks that compare broker and ledger, or broker and settings."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from session_client.net.errors import LinkLostError
from session_contracts import Names
from session_worker.broker import marker
from session_worker.broker.topology import TopologyError
from session_worker.operators.dead_letters import ParkingLot
from session_worker.operators.doctor.result import CHECK_SECONDS, failed, no_answer, ok, skipped, warning
from session_worker.operators.operations import named
from session_worker.settings import durations

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from session_worker.operators.dead_letters import DeadLetter
    from session_worker.operators.doctor.broker import BrokerFindings
    from session_worker.operators.doctor.ledger_findings import LedgerFindings
    from session_worker.operators.doctor.result import Result
    from session_worker.operators.operations import Known
    from session_worker.settings import Settings


def workers(
    settings: Settings, operations: Sequence[Known], ledger: LedgerFindings, broker: BrokerFindings
) -> Result:
    """Compare who is registered at the ledger with who consumes."""
    every = [Names(settings.prefix, each.key) for each in operations]
    counted = {names: broker.consumers(names.work) for names in every}
    consuming = {names: count for names, count in counted.items() if count is not None}
    if ledger.alive is None or not consuming or not ledger.usable:
        return skipped("workers", "broker and ledger must work first: without one, workers pause")
    idle = [names.work for names, count in consuming.items() if not count]
    gone = f" ({ledger.gone} more ended without a word)" if ledger.gone else ""
    each = ", ".join(
        f"{count} consume{'s' if count == 1 else ''} {names.work}" for names, count in consuming.items()
    )
    found = f"{ledger.alive} registered{gone}; {each}"
    if ledger.alive == 0 and len(idle) == len(consuming):
        nobody = f"none: nobody consumes {_listed(idle)}"
        return warning("workers", nobody, "start one with `session-worker run`")
    if len(idle) == len(consuming):
        return warning("workers", found, "its log, or /readyz, says why it pauses")
    if ledger.alive == 0:
        return warning(
            "workers",
            f"{each}, and none is registered in this ledger",
            "name the ledger that they use (SESSION_WORKER_LEDGER_URL)",
        )
    if idle:
        return warning(
            "workers",
            f"{found}: nobody consumes {_listed(idle)}",
            "start a worker that serves it too (SESSION_WORKER_APP, SESSION_WORKER_OPERATIONS)",
        )
    if slow := [names.undelivered for names in consuming if broker.consumers(names.undelivered) == 0]:
        found = f"{found}, and nobody consumes {_listed(slow)}"
        return warning("workers", found, "start one with `session-worker run`: it consumes both")
    return ok("workers", found)


def _listed(queues: Sequence[str]) -> str:
    *others, last = queues
    return f"{', '.join(others)} or {last}" if others else last


def owner(settings: Settings, ledger: LedgerFindings, broker: BrokerFindings) -> list[Result]:
    """Check that the queues belong to this ledger; no result where nobody knows."""
    if ledger.identity is None or broker.owner is None:
        return []
    names = Names(settings.prefix)
    if broker.owner.identity == ledger.identity:
        return [ok("owner", f"{names.work} belongs to this ledger")]
    return [failed("owner", *marker.mismatch(names, broker.owner))]


async def retention(
    settings: Settings, operations: Sequence[Known], broker: BrokerFindings, clock: Callable[[], float]
) -> Result:
    """Check that the ledger still knows the requests whose letters wait."""
    if settings.retention is None:
        return ok("retention", "off: the ledger forgets nothing")
    parking_lots = {each: Names(settings.prefix, each.key).dead for each in operations}
    waiting: list[Known] = []
    for each, dead in parking_lots.items():
        found = broker.queue(dead)
        if found is None or found.trouble:
            why = f"queue {dead} must be there first, and this user must be able to see it"
            return skipped("retention", why)
        waiting += [each] * bool(found.messages)
    kept = durations.text(settings.retention)
    if not waiting:
        return ok("retention", f"{kept}, and no dead letter waits")
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            oldest = await _oldest(settings, waiting)
    except TimeoutError:
        return no_answer("retention", "the broker")
    except (LinkLostError, TopologyError) as error:
        return skipped("retention", f"the oldest dead letter cannot be read: {error}")
    moment = oldest.failed_at if oldest else None
    age = clock() - moment.timestamp() if moment else 0.0
    if oldest is None or age <= settings.retention:
        return ok("retention", f"{kept}; the oldest dead letter is {durations.text(max(age, 0.0))} old")
    dead = Names(settings.prefix, oldest.operation.key).dead
    return warning(
        "retention",
        f"the oldest dead letter on {dead} is {durations.text(age)} old, and the ledger forgets requests "
        f"{kept} after their end: a redrive may not find it",
        "redrive or purge letters in time, or set a longer SESSION_WORKER_RETENTION; "
        "`session-worker dead redrive --unknown` sends what was forgotten as new requests",
    )


async def _oldest(settings: Settings, waiting: Sequence[Known]) -> DeadLetter | None:
    """The letter that was written first. The letters that are read are given back; a queue with the right
    arguments allows any number of looks."""
    async with ParkingLot.open(settings, [named(each.name) for each in waiting]) as lot:
        lot.counts = {operation: min(count, 1) for operation, count in lot.counts.items()}
        letters = [letter async for page in lot.pages() for letter in page]
    return min((letter for letter in letters if letter.failed_at), key=_failed_at, default=None)


def _failed_at(letter: DeadLetter) -> float:
    return letter.failed_at.timestamp() if letter.failed_at else 0.0
