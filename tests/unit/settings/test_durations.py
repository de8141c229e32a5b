"""Times as people write and read them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from session_worker.settings import durations


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), ("15m", 900), ("1.5h", 5400), ("7D", 604_800)]
)
def test_times_are_read_as_people_write_them(text: str, seconds: float) -> None:
    assert durations.seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "h", "-1h", "1 h 5 m", "1w", "inf", "1e9"])
def test_other_times_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a time"):
        durations.seconds(text)


@given(st.lists(st.floats(0, 60), min_size=1, max_size=300), st.sampled_from([50, 95, 99]))
def test_a_percentile_is_the_least_that_so_many_do_not_exceed(times: list[float], share: int) -> None:
    found = durations.percentile(times, share)

    assert found in times
    assert sum(time <= found for time in times) >= len(times) * share / 100
    assert sum(time < found for time in times) < len(times) * share / 100
