"""The short soak of every test run; `make soak` is the long one."""

from __future__ import annotations

import pytest

from tests.faults.soak import soak

pytestmark = [pytest.mark.faults, pytest.mark.soak]


@pytest.mark.parametrize(("ledger", "seed"), [("sqlite", 1), ("postgresql", 2)])
def test_the_promise_holds_through_a_minute_of_storm(ledger: str, seed: int) -> None:
    """Figures, and the story of a request that was let down, are in the captured output."""
    assert soak(1.0, seed, ledger)
