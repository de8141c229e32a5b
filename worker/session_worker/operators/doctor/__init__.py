"""Is this set-up in order? Checks that a person, or a program, can ask for; they print and change nothing.

They look with the worker's own rights and settings, and each ends within a bounded time.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from session_worker.operators.doctor import at_broker, at_home, at_ledger, at_management, together
from session_worker.operators.doctor.result import Result, State

if TYPE_CHECKING:
    from collections.abc import Callable

    from session_worker.settings import Settings

__all__ = ["Result", "State", "examine"]


async def examine(settings: Settings, clock: Callable[[], float] = time.time) -> list[Result]:
    """The results of all checks, in the order in which to fix what is wrong. ``clock``: this machine's."""
    home, ledger, broker, policies = await asyncio.gather(
        at_home.examine(settings),
        at_ledger.examine(settings, clock),
        at_broker.examine(settings),
        at_management.examine(settings),
    )
    return [
        *home,
        *ledger.results,
        *broker.results,
        *policies,
        *together.owner(settings, ledger, broker),
        together.workers(settings, ledger, broker),
        await together.retention(settings, broker, clock),
    ]
