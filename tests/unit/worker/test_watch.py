"""What follows from a look at the ledger."""

from __future__ import annotations

import pytest

from contracts import RequestStatus
from worker.ledger.base import Glimpse, Recent
from worker.watch import SAMPLE, traffic

DONE, BAD, RUNNING = RequestStatus.COMPLETED, RequestStatus.FAILED, RequestStatus.PROCESSING


def recent(*newest: Glimpse) -> Recent:
    return Recent(newest=newest, waiting=2, failed=3, workers=["one"])


def test_only_what_finished_in_the_last_minute_has_a_rate_and_a_latency() -> None:
    """However long ago it was received."""
    found = traffic(
        recent(
            Glimpse(RUNNING, None, 0.1, None),
            Glimpse(DONE, None, 5, 0.2),
            Glimpse(DONE, None, 6, 0.4),
            Glimpse(BAD, "rejected", 900, 890.0),
            Glimpse(DONE, None, 900, 0.3),
        ),
        [],
    )

    assert found.rates == {"completed": pytest.approx(2 / 60), "rejected": pytest.approx(1 / 60)}
    assert (found.p50, found.p95, found.running) == (0.4, 890.0, 1)
    assert (found.waiting, found.failed, found.workers) == (2, 3, ["one"])


def test_a_full_sample_gives_the_rate_of_the_time_that_it_covers() -> None:
    """A thousand a second: the sample reaches back three seconds."""
    found = traffic(recent(*(Glimpse(DONE, None, 0.001 * (n + 1), 0.0005) for n in range(SAMPLE))), [])

    assert found.seconds == pytest.approx(3)
    assert found.rates == {"completed": pytest.approx(1000)}


def test_an_idle_ledger_has_no_latency() -> None:
    found = traffic(recent(), [])

    assert (found.rates, found.p50, found.p95, found.running) == ({}, None, None, 0)
