"""The pauses before a worker connects again, and when it stops trying."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
import tenacity
from hypothesis import given
from hypothesis import strategies as st

from session_worker.broker import backoff


@given(lost_early=st.integers(0, 100_000), chance=st.floats(0, 1, exclude_max=True))
def test_links_that_are_lost_early_follow_each_other_more_and_more_slowly(
    lost_early: int, chance: float
) -> None:
    pause, next_pause = backoff.link_delay(lost_early, chance), backoff.link_delay(lost_early + 1, chance)
    assert 0 <= pause <= next_pause <= 5
    assert (pause == 0) == (lost_early == 0)


def _always(error: Exception) -> Callable[[], Awaitable[None]]:
    async def fail() -> None:
        raise error

    return fail


async def test_trying_until_stopped_ends_at_once_when_stopped() -> None:
    """The stop event ends the wait between two tries, not only the next try."""
    stop = asyncio.Event()
    waits: list[float] = []

    def before_sleep(state: tenacity.RetryCallState) -> None:
        waits.append(state.upcoming_sleep)
        stop.set()

    trying = backoff.until_stopped(stop, OSError, before_sleep, lambda _: False)
    with pytest.raises(OSError, match="away"):
        await asyncio.wait_for(trying(_always(OSError("away"))), 5)
    assert len(waits) == 1


async def test_trying_until_stopped_gives_up_what_is_hopeless_or_unexpected() -> None:
    stop = asyncio.Event()
    seen: list[object] = []
    hopeless = backoff.until_stopped(stop, OSError, seen.append, lambda _: True)
    with pytest.raises(OSError, match="never"):
        await hopeless(_always(OSError("never")))
    patient = backoff.until_stopped(stop, OSError, seen.append, lambda _: False)
    with pytest.raises(TypeError, match="bug"):
        await patient(_always(TypeError("bug")))
    assert seen == []
