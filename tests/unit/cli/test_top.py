"""What `top` shows of a look, on terminals of any width."""

from __future__ import annotations

from dataclasses import replace

import pytest

from contracts import RequestStatus
from tests.unit.cli.test_words import entry, shown
from worker.cli.top import Frame, picture
from worker.watch import Depth, Look, Traffic

TRAFFIC = Traffic({}, 60.0, None, None, 0, 0, 1, failed_more=False, workers=["one"])
FAILED = replace(
    entry("one"),
    status=RequestStatus.FAILED,
    error_code="handler_failed",
    error="out of order " * 20,
    history=[],
)


@pytest.mark.parametrize("width", [60, 80, 120])
def test_of_a_failure_time_id_and_code_are_whole_and_the_reason_is_one_line(width: int) -> None:
    text = shown(picture(Frame(Look(TRAFFIC, [FAILED]), [Depth("session.create", 0, 1)])), width)

    assert "failed (UTC)" in text
    assert f"12:00:04      {FAILED.request_id}" in text
    assert "handler_failed" in text
    assert text.count("…") == 1
    assert max(map(len, text.splitlines())) <= width


@pytest.mark.parametrize(
    ("finished", "rate"),
    [(1, "0.017"), (2, "0.033"), (60, "1"), (90, "1.5"), (7200, "120"), (90_000, "1,500")],
)
def test_a_rate_has_two_digits_that_say_something(finished: int, rate: str) -> None:
    """However few requests there are."""
    traffic = replace(TRAFFIC, rates={"completed": finished / 60})

    assert f"finished  {rate}/s over 60 s  completed {rate}\n" in shown(picture(Frame(Look(traffic, []))), 80)
