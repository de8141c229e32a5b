"""How long to wait before connecting to the broker again."""

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
    """Return the pause in seconds before the next link.

    ``lost_early``: how many links in a row were lost soon after they had been built. ``chance``, from 0 to
    below 1, shortens the pause by up to a half.
    """
    return min(0.1 * 2 ** min(lost_early, 10), LONGEST_PAUSE) * (1 - chance / 2) if lost_early else 0.0


def until_stopped(
    stop: asyncio.Event,
    errors: type[BaseException] | tuple[type[BaseException], ...],
    before_sleep: Callable[[tenacity.RetryCallState], None],
    hopeless: Callable[[tenacity.RetryCallState], bool],
) -> tenacity.AsyncRetrying:
    """Retry after ``errors``, with jittered backoff, until ``stop`` is set or ``hopeless`` says so."""

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
