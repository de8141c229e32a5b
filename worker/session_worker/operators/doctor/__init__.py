"""Check whether a set-up is in order, without printing or changing anything.

The checks use the worker's own rights and settings, and each ends within a bounded time.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from session_worker.operators.doctor import broker, cross_checks, ledger, local, management
from session_worker.operators.doctor.result import Result, State

if TYPE_CHECKING:
    from collections.abc import Callable

    from session_worker.settings import Settings

__all__ = ["Result", "State", "examine"]


async def examine(settings: Settings, clock: Callable[[], float] = time.time) -> list[Result]:
    """Run all checks, and sort their results in the order of repair. ``clock``: this machine's."""
    at_home, at_ledger, at_broker, policies = await asyncio.gather(
        local.examine(settings),
        ledger.examine(settings, clock),
        broker.examine(settings),
        management.examine(settings),
    )
    return [
        *at_home,
        *at_ledger.results,
        *at_broker.results,
        *policies,
        *cross_checks.owner(settings, at_ledger, at_broker),
        cross_checks.workers(settings, at_ledger, at_broker),
        await cross_checks.retention(settings, at_broker, clock),
    ]
