"""Times and entries as people and programs read them."""

from __future__ import annotations

import re
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from io import StringIO
from typing import Literal
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from session_contracts import RequestStatus
from session_worker.cli.views import entries
from session_worker.ledger.reader import Entry
from session_worker.operators.entries import document
from session_worker.settings import durations

NOON = datetime(2026, 1, 2, 12, 0, tzinfo=UTC)


def entry(*workers: str) -> Entry:
    """A request that failed on the first worker and was completed by the last."""
    moves = [("pending", 0), ("processing", 1), ("pending", 1), ("processing", 2), ("completed", 2)]
    history = [
        {
            "status": status,
            "at": (NOON + timedelta(seconds=number)).isoformat(),
            "attempt": attempt,
            "worker_id": workers[0] if number < 3 else workers[-1],
            "detail": "[red]out of order[/red]" if number == 2 else None,
        }
        for number, (status, attempt) in enumerate(moves)
    ]
    return Entry(
        request_id=UUID(int=7),
        status=RequestStatus.COMPLETED,
        attempt=2,
        session_id="ts_260102_abcdefghijkl",
        user_id="ada@example.com",
        casefile_id=None,
        title=None,
        error_code=None,
        error=None,
        reply="sent",
        received_at=NOON,
        updated_at=NOON,
        finished_at=NOON + timedelta(seconds=4),
        next_attempt_at=None,
        history=history,
    )


def shown(renderable: object, width: int = 80) -> str:
    screen = Console(file=StringIO(), width=width, markup=False)
    screen.print(renderable)
    assert isinstance(screen.file, StringIO)
    return screen.file.getvalue()


def test_a_document_has_the_published_fields_in_their_order() -> None:
    found = document(entry("one"))

    assert list(found) == [
        *("request_id", "status", "attempt", "session_id", "user_id", "casefile_id", "title"),
        *("error_code", "error", "reply", "received_at", "finished_at", "next_attempt_at", "history"),
    ]
    assert found["received_at"] == "2026-01-02T12:00:00+00:00"
    assert found["next_attempt_at"] is None


def test_a_timeline_fits_into_a_narrow_terminal_and_shows_what_was_said_as_it_was() -> None:
    """No word of a handler's error is taken for markup."""
    text = shown(entries.timeline(entry("one")))

    assert "[red]out of order[/red]" in text
    assert "+4.00 s" in text
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 80


def test_a_timeline_names_the_worker_of_each_move_only_if_there_were_several() -> None:
    assert shown(entries.timeline(entry("one"))).count("one") == 1
    both = shown(entries.timeline(entry("one", "two")))
    assert (both.count("one"), both.count("two")) == (3, 2)


@pytest.mark.parametrize(
    ("status", "reply", "line"),
    [
        (RequestStatus.COMPLETED, "sent", "reply     sent"),
        (RequestStatus.COMPLETED, None, "reply     not confirmed yet"),
        (RequestStatus.PROCESSING, None, None),
    ],
)
def test_what_became_of_the_reply_is_said_of_what_has_an_outcome(
    status: RequestStatus, reply: Literal["sent"] | None, line: str | None
) -> None:
    """Between an answer and its confirm there is a moment; before the outcome there is no answer."""
    finished = NOON if status is RequestStatus.COMPLETED else None
    found = replace(entry("one"), status=status, reply=reply, finished_at=finished)

    lines = shown(entries.timeline(found)).splitlines()

    assert [each for each in lines if each.startswith("reply")] == ([line] if line else [])


@pytest.mark.parametrize("zone", ["America/New_York", "Asia/Tokyo"])
def test_times_are_in_utc_and_say_so_wherever_the_reader_is(
    monkeypatch: pytest.MonkeyPatch, zone: str
) -> None:
    """As in the log, which is to be compared with them."""
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        text = shown(entries.timeline(entry("one")))
        assert durations.clock("2026-01-02T12:00:00+02:00") == "2026-01-02 10:00:00 UTC"
    finally:
        monkeypatch.undo()
        time.tzset()

    assert "received  2026-01-02 12:00:00 UTC" in text
    assert re.search(r"^time \(UTC\) .*\n12:00:00\.000 ", text, re.MULTILINE)


@pytest.mark.parametrize("width", [60, 80, 120])
def test_a_list_fits_into_a_narrow_terminal_with_ids_and_outcomes_whole(width: int) -> None:
    """What failed is named by its code; a long name of a user takes more lines."""
    failed = replace(
        entry("one"), status=RequestStatus.FAILED, error_code="handler_timeout", user_id="ada" * 50
    )
    text = shown(entries.table([entry("one"), failed], NOON + timedelta(hours=3)), width)

    assert text.count(str(UUID(int=7))) == 2
    assert "3.0 h  " in text
    assert "ts_260102_abcdefghijkl" in text
    assert "failed: handler_timeout" in text
    assert "ada@example.com" in text
    assert max(map(len, text.splitlines())) <= width


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


@pytest.mark.parametrize("hostile", ["\x1b[2J", "\x9b2J", "\r", "\u202e", "\x7f"], ids=ascii)
def test_what_others_wrote_gives_the_terminal_no_commands(hostile: str) -> None:
    """A user id, an error or a handler's exception may hold anything; it is spelled out."""
    written = f"eve{hostile}"
    moves = [{**move, "detail": written} for move in entry("w1").history]
    failed = replace(entry("w1"), user_id=written, error_code="rejected", error=written, history=moves)
    for text in (shown(entries.timeline(failed), 200), shown(entries.table([failed], NOON), 200)):
        assert hostile[0] not in text
        assert written.encode("unicode_escape").decode() in text
