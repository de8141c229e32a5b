"""What `top` shows of a look, on terminals of any width."""

from __future__ import annotations

import re
from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console

from session_contracts import RequestStatus
from session_worker.cli.views.activity import fitting, picture
from session_worker.operators.traffic import Finished, Traffic
from session_worker.operators.watch import Depth, Look, Snapshot
from tests.unit.cli.test_words import entry, shown

LATELY, MINUTE = Finished(5.0, {}, None, None), Finished(60.0, {}, None, None)
TRAFFIC = Traffic(LATELY, MINUTE, 0, 0, 1, failed_more=False, workers=["one"])
FAILED = replace(
    entry("one"),
    status=RequestStatus.FAILED,
    error_code="handler_failed",
    error="out of order " * 20,
    history=[],
)


@pytest.mark.parametrize("width", [60, 80, 120])
def test_of_a_failure_time_id_and_code_are_whole_and_the_reason_is_one_line(width: int) -> None:
    text = shown(picture(Snapshot(Look(TRAFFIC, [FAILED]), [Depth("session.create", 0, 1)])), width)

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
    traffic = replace(TRAFFIC, minute=replace(MINUTE, rates={"completed": finished / 60}))

    text = shown(picture(Snapshot(Look(traffic, []))), 80)
    assert f"finished  0/s over 5 s\n          {rate}/s over 60 s  completed {rate}\n" in text


@pytest.mark.parametrize("messages", [0, 7])
@pytest.mark.parametrize(("width", "height"), [(60, 20), (40, 24), (80, 24), (80, 18), (200, 20)])
def test_a_screen_with_few_lines_shows_a_failure_all_the_same(width: int, height: int, messages: int) -> None:
    """Queues give way to it, those with most in them last, and the others are counted."""
    busy = Finished(5.0, {"completed": 640.0, "handler_failed": 9.0}, 0.004, 0.009)
    traffic = replace(TRAFFIC, lately=busy, minute=replace(busy, seconds=60.0), workers=["a-1-2", "b-3-4"])
    names = ["", *(f".retry.{delay}s" for delay in (1, 5, 30, 120, 600)), ".undelivered", ".dead"]
    queues = [Depth(f"session.create{name}", messages, 0) for name in names]
    snapshot = Snapshot(Look(traffic, [FAILED] * 5), [*queues, Depth("session.replies", 9, 0)])
    screen = Console(file=StringIO(), width=width, height=height)

    lines = [
        "".join(part.text for part in line).rstrip()
        for line in screen.render_lines(fitting(snapshot, screen), pad=False)
    ]

    assert len(lines) <= height
    assert max(map(len, lines)) <= width
    text = "\n".join(lines)
    assert str(FAILED.request_id)[:35] in text
    assert width == 40 or "handler_failed" in text.rpartition(str(FAILED.request_id))[2]
    assert re.search(r"session\.create  ", text)
    assert (others := re.search(r"(\d) others +(\d+)", text))
    assert int(others[2]) == messages * int(others[1]) or "session.replies" not in text
