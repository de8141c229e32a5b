"""What follows from a look at the ledger."""

from __future__ import annotations

from dataclasses import replace
from uuid import uuid4

import pytest

from session_contracts import RequestStatus
from session_worker.ledger.reader import Glimpse, Recent
from session_worker.operators.traffic import FAILURES, SAMPLE, failed_last, traffic

DONE, BAD, RUNNING = RequestStatus.COMPLETED, RequestStatus.FAILED, RequestStatus.PROCESSING
WAITING = RequestStatus.PENDING


def seen(status: RequestStatus, age: float, took: float | None = None, code: str | None = None) -> Glimpse:
    return Glimpse(uuid4(), status, age, took, code)


def recent(*newest: Glimpse, troubled: tuple[Glimpse, ...] = ()) -> Recent:
    return Recent(newest, troubled or [each for each in newest if each.error_code], 2, ["one"])


def test_only_what_finished_in_a_window_has_a_rate_and_a_latency() -> None:
    """However long ago it was received; once, although it is among the newest and the troubled."""
    found = traffic(
        recent(
            seen(RUNNING, 0.1),
            seen(DONE, 4, 0.2),
            seen(DONE, 6, 0.4),
            seen(BAD, 900, 890.0, "rejected"),
            seen(DONE, 900, 0.3),
        )
    )

    lately, minute = found.lately, found.minute
    assert (lately.seconds, minute.seconds, found.running) == (5, 60, 1)
    assert lately.rates == {"completed": pytest.approx(1 / 5)}
    assert (lately.p50, lately.p95) == (0.2, 0.2)
    assert minute.rates == {"completed": pytest.approx(2 / 60), "rejected": pytest.approx(1 / 60)}
    assert (minute.p50, minute.p95) == (0.4, 890.0)
    assert (found.waiting, found.failed, found.failed_more, found.workers) == (2, 1, False, ["one"])


def test_a_redriven_request_has_a_rate_and_no_latency() -> None:
    """The time that it lay dead says nothing of the worker's."""
    redriven = replace(seen(DONE, 3000, 2999), redriven=True)

    found = traffic(recent(seen(DONE, 5, 0.2), redriven)).minute

    assert found.rates == {"completed": pytest.approx(2 / 60)}
    assert (found.p50, found.p95) == (0.2, 0.2)
    assert traffic(recent(redriven)).minute.p50 is None


def test_a_full_sample_gives_the_rate_of_the_time_that_it_covers() -> None:
    """A thousand a second: the sample reaches back three seconds. What just failed after an hour counts."""
    newest = [seen(DONE, 0.001 * (n + 1), 0.0005) for n in range(SAMPLE)]
    found = traffic(recent(*newest, troubled=(seen(BAD, 3000, 2999, "handler_failed"),)))

    assert found.lately == found.minute
    assert found.lately.seconds == pytest.approx(3)
    assert found.lately.rates == {"completed": pytest.approx(1000), "handler_failed": pytest.approx(1 / 3)}


def test_where_more_are_in_trouble_than_are_looked_at_the_failed_ones_may_be_more() -> None:
    found = traffic(recent(troubled=(seen(WAITING, 1, None, "handler_failed"),) * SAMPLE))

    assert (found.failed, found.failed_more) == (0, True)


def test_the_last_failures_are_those_that_failed_last() -> None:
    """Not those that were received last; one that waits for its next attempt has not failed."""
    late, early = seen(BAD, 600, 599, "a"), seen(BAD, 5, 1, "b")
    others = [seen(BAD, 700 + n, 1, "c") for n in range(9)]

    found = failed_last(recent(seen(WAITING, 0.5, None, "d"), early, late, *others))

    assert found[:2] == [late.request_id, early.request_id]
    assert len(found) == FAILURES


def test_an_idle_ledger_has_no_latency() -> None:
    found = traffic(recent())

    assert (found.lately.rates, found.minute.p50, found.minute.p95, found.running) == ({}, None, None, 0)
