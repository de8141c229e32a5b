"""When to try again: delays, requeues and the tries within one attempt."""

import asyncio
from collections.abc import Callable

import pytest
import tenacity
from hypothesis import given
from hypothesis import strategies as st

from session_worker.operations.handler import PermanentError, Rejected
from session_worker.requests import retry

DELAYS = st.lists(st.integers(1, 86_400), min_size=1, max_size=20, unique=True).map(
    lambda found: tuple(sorted(found))
)
CHANCES = st.floats(0, 1, exclude_max=True)


@given(attempt=st.integers(1, 1000), delays=DELAYS, chance=CHANCES)
def test_wait_is_a_configured_delay_and_never_longer_than_the_table_says(
    attempt: int, delays: tuple[int, ...], chance: float
) -> None:
    wait = retry.attempt_delays(attempt, delays, chance)[-1]
    assert wait in delays
    assert wait <= delays[min(attempt, len(delays)) - 1]


@given(attempt=st.integers(1, 30), delays=DELAYS)
def test_half_of_the_requests_wait_the_nominal_delay_and_half_the_one_before(
    attempt: int, delays: tuple[int, ...]
) -> None:
    place = min(attempt, len(delays)) - 1
    assert retry.attempt_delays(attempt, delays, 0.49) == delays[: place + 1]
    assert retry.attempt_delays(attempt, delays, 0.5) == delays[: max(place, 1)]


@given(attempt=st.integers(1, 1000), chance=CHANCES)
def test_single_delay_serves_every_attempt(attempt: int, chance: float) -> None:
    assert retry.attempt_delays(attempt, (7,), chance) == (7,)


@given(wait=st.floats(0, 1e6), delays=DELAYS, requeues=st.integers(0, 1000))
def test_request_that_is_not_due_is_left_alone_for_the_shortest_delay_that_reaches_its_time(
    wait: float, delays: tuple[int, ...], requeues: int
) -> None:
    delay = retry.busy_delay(wait, delays, running=False, requeues=requeues)
    assert delay in delays
    assert delay >= wait or delay == delays[-1]
    assert not [shorter for shorter in delays if wait <= shorter < delay]


@given(wait=st.floats(0, 1e6), delays=DELAYS, requeues=st.integers(0, 1000))
def test_running_request_is_asked_again_before_its_holder_could_be_gone(
    wait: float, delays: tuple[int, ...], requeues: int
) -> None:
    delay = retry.busy_delay(wait, delays, running=True, requeues=requeues)
    assert delay in delays
    assert delay <= wait or delay == delays[0]
    assert delay <= delays[min(requeues, len(delays) - 1)]


@given(wait=st.floats(0, 1e6), delays=DELAYS, requeues=st.integers(0, 999))
def test_each_delay_of_a_running_request_is_at_least_as_long_as_the_one_before(
    wait: float, delays: tuple[int, ...], requeues: int
) -> None:
    now = retry.busy_delay(wait, delays, running=True, requeues=requeues)
    later = retry.busy_delay(wait, delays, running=True, requeues=requeues + 1)
    assert later >= now


def test_delays_of_a_running_request_grow_along_the_table() -> None:
    delays = [retry.busy_delay(100, (1, 5, 30, 120), running=True, requeues=times) for times in range(5)]
    assert delays == [1, 5, 30, 30, 30]


async def _tries(error: BaseException, each: Callable[[], None] = lambda: None) -> int:
    """How often something that always raises ``error`` is tried."""
    calls = 0

    async def fail() -> None:
        nonlocal calls
        calls += 1
        each()
        raise error

    with pytest.raises(type(error)):
        await retry.immediate()(fail)
    return calls


@pytest.fixture
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Immediate retries without their waits."""
    made = retry.immediate

    def at_once() -> tenacity.AsyncRetrying:
        return made().copy(wait=tenacity.wait_none())

    monkeypatch.setattr(retry, "immediate", at_once)


@pytest.mark.usefixtures("_no_waiting")
@pytest.mark.parametrize("error", [ValueError("flaky"), TimeoutError(), OSError("reset")])
async def test_passing_error_is_tried_three_times(error: Exception) -> None:
    assert await _tries(error) == 3


@pytest.mark.usefixtures("_no_waiting")
@pytest.mark.parametrize(
    "error",
    [
        PermanentError("no use"),
        Rejected("no"),
        SystemExit(3),
        KeyboardInterrupt(),
        asyncio.CancelledError(),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_lasting_error_is_tried_once(error: BaseException) -> None:
    """A permanent error, an answer, an order to leave."""
    assert await _tries(error) == 1


async def test_no_try_begins_after_two_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow failure is not repeated: the time of the tries themselves counts."""
    clock = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: sum(clock))
    assert await _tries(ValueError("slow"), lambda: clock.append(2.0)) == 1


def test_waits_between_immediate_tries_leave_room_for_all_three() -> None:
    """Two waits of at most half a second fit into the two seconds."""
    wait: Callable[[tenacity.RetryCallState], float] = retry.immediate().wait
    state = tenacity.RetryCallState(retry.immediate(), None, (), {})
    for number in range(1, 10):
        state.attempt_number = number
        assert 0 <= max(wait(state) for _ in range(200)) <= 0.5
