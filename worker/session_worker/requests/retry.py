"""When to try again: pure policy, and the tenacity settings that follow from it.

There are three layers: *immediate* (within one attempt, for failures that pass in a moment), *delayed* (the
request waits in a retry queue) and *parked* (people look at it). Only this file decides which failures are
worth another try.
"""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING

import tenacity

from session_worker.operations.handler import PermanentError, RetryLater
from session_worker.requests.timing import current_timing

if TYPE_CHECKING:
    from collections.abc import Sequence

IMMEDIATE_TRIES = 3
IMMEDIATE_SECONDS = 2.0
LATE_SECONDS = 30.0


def is_transient(error: BaseException) -> bool:
    """Whether another attempt may succeed. After any error it may, unless the error says that it cannot."""
    return not isinstance(error, PermanentError)


def attempt_delays(attempt: int, delays: Sequence[int], chance: float) -> Sequence[int]:
    """Return the possible waits, in seconds, after failed attempt number ``attempt`` (from 1). The last one
    is wanted; the shorter ones are for a request that has no time for it.

    The nominal delay stands at the attempt's place in ``delays`` (the last one repeats). Requests that failed
    together shall not all come back together: ``chance`` (0 ≤ chance < 1) sends half of them to the delay
    before it, so that no wait is longer than the table says.
    """
    nominal = min(attempt, len(delays))
    return delays[: nominal if chance < 0.5 else max(nominal - 1, 1)]


def busy_delay(wait: float, delays: Sequence[int], *, running: bool, requeues: int) -> int:
    """Return for how many seconds to send a delivery round whose request is not free for ``wait`` seconds.

    If the request is due at a known time, that is the shortest delay that reaches it. If a live worker runs
    it, it may be over at any moment: ask again soon at first and later each time, but no later than its
    worker could be known to be gone.
    """
    if not running:
        return next((delay for delay in delays if delay >= wait), delays[-1])
    growing = delays[min(requeues, len(delays) - 1)]
    within = [delay for delay in delays if delay <= wait]
    return min(growing, within[-1] if within else delays[0])


def due_delay(wait: float, delays: Sequence[int]) -> int:
    """Return for how many seconds to send a delivery round whose request is due in ``wait`` seconds: the
    shortest delay that reaches this moment, or, if that is more than ``LATE_SECONDS`` beyond it, the longest
    that does not, so that the delivery goes round once more."""
    enough = next((delay for delay in delays if delay >= wait), delays[-1])
    shorter = [delay for delay in delays if delay < wait]
    return shorter[-1] if shorter and enough - wait > LATE_SECONDS else enough


def wished_delays(after: float, delays: Sequence[int]) -> Sequence[int]:
    """Return the possible waits after an attempt whose handler asked for the next one in ``after`` seconds:
    that one, and shorter ones for a request that has no time for it."""
    return [*(delay for delay in delays if delay < after), math.ceil(after)]


def immediate() -> tenacity.AsyncRetrying:
    """Return the tries within one attempt: at most ``IMMEDIATE_TRIES`` within ``IMMEDIATE_SECONDS``."""
    return tenacity.AsyncRetrying(
        sleep=current_timing.get().pause,
        stop=tenacity.stop_after_attempt(IMMEDIATE_TRIES) | tenacity.stop_before_delay(IMMEDIATE_SECONDS),
        wait=tenacity.wait_random_exponential(multiplier=0.1, max=0.5),
        retry=tenacity.retry_if_exception(_worth_another_try),
        reraise=True,
    )


def _worth_another_try(error: BaseException) -> bool:
    # A handler that was cancelled is not called again, whatever it raises.
    task = asyncio.current_task()
    cut_off = task is not None and task.cancelling() > 0
    return (
        isinstance(error, Exception)
        and is_transient(error)
        and not isinstance(error, RetryLater)
        and not cut_off
    )
