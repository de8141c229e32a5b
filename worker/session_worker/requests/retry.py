"""When to try again: pure policy, and the tenacity settings that follow from it.

Three layers: *immediate* (inside one attempt, for what is over in a moment), *delayed* (the request waits in
a retry queue), *parked* (people look at it). Which failures are worth trying again is decided here alone.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import tenacity

from session_worker.operations.handler import PermanentError

if TYPE_CHECKING:
    from collections.abc import Sequence

IMMEDIATE_TRIES = 3
IMMEDIATE_SECONDS = 2.0


def is_transient(error: BaseException) -> bool:
    """Whether another attempt may succeed. Everything may, except what says that it cannot."""
    return not isinstance(error, PermanentError)


def attempt_delays(attempt: int, delays: Sequence[int], chance: float) -> Sequence[int]:
    """The possible waits, in seconds, after failed attempt number ``attempt`` (from 1): the last one is
    wanted, a shorter one is for a request without time for it.

    The nominal delay is the one at the attempt's place in ``delays`` (the last one repeats). So that requests
    which failed together do not all come back together, ``chance`` (0 ≤ chance < 1) sends half of them
    to the delay before it: a wait is never longer than the table says.
    """
    nominal = min(attempt, len(delays))
    return delays[: nominal if chance < 0.5 else max(nominal - 1, 1)]


def busy_delay(wait: float, delays: Sequence[int], *, running: bool, requeues: int) -> int:
    """The time, in seconds, a delivery stays away from a request that is not to be had for ``wait`` seconds.

    A request that is due at a known time: the shortest delay that reaches it. One that a live worker is
    running may be over at any moment: ask again soon at first, later each time, never later than the moment
    its worker could be known to be gone.
    """
    if not running:
        return next((delay for delay in delays if delay >= wait), delays[-1])
    patient = delays[min(requeues, len(delays) - 1)]
    within = [delay for delay in delays if delay <= wait]
    return min(patient, within[-1] if within else delays[0])


def immediate() -> tenacity.AsyncRetrying:
    """Tries within one attempt: at most ``IMMEDIATE_TRIES``, begun within ``IMMEDIATE_SECONDS``."""
    return tenacity.AsyncRetrying(
        stop=tenacity.stop_after_attempt(IMMEDIATE_TRIES) | tenacity.stop_before_delay(IMMEDIATE_SECONDS),
        wait=tenacity.wait_random_exponential(multiplier=0.1, max=0.5),
        retry=tenacity.retry_if_exception(_worth_another_try),
        reraise=True,
    )


def _worth_another_try(error: BaseException) -> bool:
    # Whatever a handler raises when it is cancelled, it is not called again.
    task = asyncio.current_task()
    cut_off = task is not None and task.cancelling() > 0
    return isinstance(error, Exception) and is_transient(error) and not cut_off
