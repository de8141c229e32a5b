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
    app, operations = await local.app(settings)
    at_home, at_ledger, at_broker, at_management = await asyncio.gather(
        local.examine(settings, operations),
        ledger.examine(settings, clock),
        broker.examine(settings, operations),
        management.examine(settings, operations),
    )
    return [
        local.known_settings(settings.prefix),
        app,
        *at_home,
        *at_ledger.results,
        *at_broker.results,
        *at_management,
        *cross_checks.owner(settings, at_ledger, at_broker),
        cross_checks.workers(settings, operations, at_ledger, at_broker),
        await cross_checks.retention(settings, operations, at_broker, clock),
    ]
