"""How long to wait before the broker is tried again."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

import tenacity

if TYPE_CHECKING:
    from collections.abc import Callable

LONGEST_PAUSE = 5.0
"""Seconds between two tries to reach the broker."""


def link_delay(lost_early: int, chance: float) -> float:
    """The pause, in seconds, before the next link, after so many in a row that were lost soon after they had
    been built. ``chance`` (0 ≤ chance < 1) takes up to half of it away."""
    return min(0.1 * 2 ** min(lost_early, 10), LONGEST_PAUSE) * (1 - chance / 2) if lost_early else 0.0


def until_stopped(
    stop: asyncio.Event,
    errors: type[BaseException] | tuple[type[BaseException], ...],
    before_sleep: Callable[[tenacity.RetryCallState], None],
    hopeless: Callable[[tenacity.RetryCallState], bool],
) -> tenacity.AsyncRetrying:
    """Try again, with jittered backoff, until ``stop`` is set or it is hopeless."""

    async def sleep(seconds: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), seconds)

    return tenacity.AsyncRetrying(
        wait=tenacity.wait_random_exponential(multiplier=0.2, max=LONGEST_PAUSE),
        retry=tenacity.retry_if_exception_type(errors),
        stop=lambda state: stop.is_set() or hopeless(state),
        sleep=sleep,
        before_sleep=before_sleep,
        reraise=True,
    )
