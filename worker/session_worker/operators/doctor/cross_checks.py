"""Checks that compare broker and ledger, or broker and settings."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from session_client.net.errors import LinkLostError
from session_contracts import CREATE_SESSION, Names
from session_worker.broker import marker
from session_worker.broker.topology import TopologyError
from session_worker.operators.dead_letters import ParkingLot
from session_worker.operators.doctor.result import CHECK_SECONDS, failed, no_answer, ok, skipped, warning
from session_worker.settings import durations

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from session_worker.operators.doctor.broker import BrokerFindings
    from session_worker.operators.doctor.ledger_findings import LedgerFindings
    from session_worker.operators.doctor.result import Result
    from session_worker.settings import Settings


def workers(settings: Settings, ledger: LedgerFindings, broker: BrokerFindings) -> Result:
    """Compare who is registered at the ledger with who consumes."""
    names = Names(settings.prefix)
    work, slow = (broker.consumers(queue) for queue in (names.work, names.undelivered))
    if ledger.alive is None or work is None or not ledger.usable:
        return skipped("workers", "broker and ledger must work first: without one, workers pause")
    gone = f" ({ledger.gone} more ended without a word)" if ledger.gone else ""
    found = f"{ledger.alive} registered{gone}; {work} consume{'s' if work == 1 else ''} {names.work}"
    if work == 0 and ledger.alive == 0:
        return warning(
            "workers", f"none: nobody consumes {names.work}", "start one with `session-worker run`"
        )
    if work == 0:
        return warning("workers", found, "its log, or /readyz, says why it pauses")
    if ledger.alive == 0:
        found = (
            f"{work} consume{'s' if work == 1 else ''} {names.work}, and none is registered in this ledger"
        )
        return warning("workers", found, "name the ledger that they use (SESSION_WORKER_LEDGER_URL)")
    if slow == 0:
        found = f"{found}, and nobody consumes {names.undelivered}"
        return warning("workers", found, "start one with `session-worker run`: it consumes both")
    return ok("workers", found)


def owner(settings: Settings, ledger: LedgerFindings, broker: BrokerFindings) -> list[Result]:
    """Check that the queues belong to this ledger; no result where nobody knows."""
    if ledger.identity is None or broker.owner is None:
        return []
    names = Names(settings.prefix)
    if broker.owner.identity == ledger.identity:
        return [ok("owner", f"{names.work} belongs to this ledger")]
    return [failed("owner", *marker.mismatch(names, broker.owner))]


async def retention(settings: Settings, broker: BrokerFindings, clock: Callable[[], float]) -> Result:
    """Check that the ledger still knows the requests whose letters wait."""
    dead = Names(settings.prefix).dead
    if settings.retention is None:
        return ok("retention", "off: the ledger forgets nothing")
    found = broker.queue(dead)
    if found is None or found.trouble:
        return skipped("retention", f"queue {dead} must be there first, and this user must be able to see it")
    kept = durations.text(settings.retention)
    if not found.messages:
        return ok("retention", f"{kept}, and no dead letter waits")
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            oldest = await _oldest(settings)
    except TimeoutError:
        return no_answer("retention", "the broker")
    except (LinkLostError, TopologyError) as error:
        return skipped("retention", f"the oldest dead letter cannot be read: {error}")
    age = clock() - oldest.timestamp() if oldest else 0.0
    if age <= settings.retention:
        return ok("retention", f"{kept}; the oldest dead letter is {durations.text(max(age, 0.0))} old")
    return warning(
        "retention",
        f"the oldest dead letter on {dead} is {durations.text(age)} old, and the ledger forgets requests "
        f"{kept} after their end: a redrive may not find it",
        "redrive or purge letters in time, or set a longer SESSION_WORKER_RETENTION; "
        "`session-worker dead redrive --unknown` sends what was forgotten as new requests",
    )


async def _oldest(settings: Settings) -> datetime | None:
    """When the oldest letter was written. The letter is given back; a queue with the right arguments allows
    any number of looks."""
    async with ParkingLot.open(settings, [CREATE_SESSION]) as lot:
        lot.counts = {operation: min(count, 1) for operation, count in lot.counts.items()}
        async for page in lot.pages():
            return page[0].failed_at
    return None
