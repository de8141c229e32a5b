"""Entries, dead letters and activity as people and programs read them, in terminals and pipes."""

from __future__ import annotations

import json
import re
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from io import StringIO
from typing import Literal
from uuid import UUID, uuid4

import pytest
from rich.console import Console
from rich.text import Text

from session_contracts import CREATE_SESSION, RequestStatus, amqp
from session_worker.cli import streams, terminal
from session_worker.cli.progress import Progress
from session_worker.cli.views import entries, letters
from session_worker.cli.views.activity import fitting, picture
from session_worker.cli.views.listing import LEAST, Listing, facts
from session_worker.ledger.reader import Entry
from session_worker.messages.delivery import Delivery
from session_worker.operators.dead_letters import DeadLetter, Group
from session_worker.operators.entries import document
from session_worker.operators.traffic import Finished, Traffic
from session_worker.operators.watch import Depth, Look, Snapshot
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
        operation="create_session",
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
        *("request_id", "operation", "status", "attempt", "session_id", "user_id", "casefile_id", "title"),
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
        (RequestStatus.COMPLETED, "sent", "reply      sent"),
        (RequestStatus.COMPLETED, None, "reply      not confirmed yet"),
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

    assert "received   2026-01-02 12:00:00 UTC" in text
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
    assert text.count("create_session") == 2
    assert "ts_260102_abcdefghijkl" in text
    assert "failed: handler_timeout" in text
    assert "ada@example.com" in text
    assert max(map(len, text.splitlines())) <= width


@pytest.mark.parametrize("hostile", ["\x1b[2J", "\x9b2J", "\r", "\u202e", "\x7f"], ids=ascii)
def test_what_others_wrote_gives_the_terminal_no_commands(hostile: str) -> None:
    """A user id, an error or a handler's exception may hold anything; it is spelled out."""
    written = f"eve{hostile}"
    moves = [{**move, "detail": written} for move in entry("w1").history]
    failed = replace(entry("w1"), user_id=written, error_code="rejected", error=written, history=moves)
    for text in (shown(entries.timeline(failed), 200), shown(entries.table([failed], NOON), 200)):
        assert hostile[0] not in text
        assert written.encode("unicode_escape").decode() in text


ID = str(uuid4())
LONG = "the other side is out of order " * 5


def lines(listing: Listing, width: int) -> list[str]:
    return shown(listing, width).splitlines()


def test_what_fits_is_one_line_for_a_row_without_spaces_at_its_end() -> None:
    """So that `grep 'completed$'` finds them."""
    listing = Listing("request", "count", "outcome", right=("count",))
    listing.add(ID, "7", Text("completed", style="green"))
    listing.add(ID, "1,000", "")

    assert lines(listing, 60) == [
        f"{'request':<36}  count  outcome",
        f"{ID}      7  completed",
        f"{ID}  1,000",
    ]


@pytest.mark.parametrize("width", [40, 60, 80, 120, 160])
def test_however_narrow_the_terminal_every_id_and_every_word_is_whole(width: int) -> None:
    listing = Listing("ago", "request", "code", "example", "why")
    for _ in range(2):
        listing.add("3.0 h", ID, "handler_failed", ID, LONG)

    text = shown(listing, width)

    assert max(map(len, text.splitlines())) <= width
    assert text.count(ID) == 4
    assert text.split().count("order") == 10


def test_the_columns_that_do_not_fit_stand_on_a_second_line_with_their_heads() -> None:
    listing = Listing("ago", "request", "code", "user")
    listing.add("3.0 h", ID, "handler_failed", "ada")
    listing.add("3.0 h", ID, "", "")

    assert lines(listing, 56) == [
        "ago    request",
        "    code  user",
        f"3.0 h  {ID}",
        "    handler_failed  ada",
        f"3.0 h  {ID}",
    ]


def test_a_long_last_cell_is_wrapped_below_itself_where_there_is_room() -> None:
    """And on lines of its own where there is too little."""
    listing = Listing("request", "why")
    listing.add(ID, LONG)

    beside, below = lines(listing, 38 + LEAST), lines(listing, 37 + LEAST)

    assert beside[1] == f"{ID}  the other side is out of order"
    assert beside[2] == f"{'':38}the other side is out of order"
    assert below[2] == ID
    assert below[3].startswith("    the other side is out of order the other side")


def test_a_brief_list_takes_no_more_lines_than_it_must() -> None:
    listing = Listing("request", "why", brief=True)
    listing.add(ID, LONG)

    assert [line.endswith("…") for line in lines(listing, 80)] == [False, True]
    assert [line.endswith("…") for line in lines(listing, 60)] == [False, False, False, True]


def test_facts_have_no_head() -> None:
    assert lines(facts([("request", ID), ("error", "none")]), 80) == [f"request  {ID}", "error    none"]


EVIL = "\x1b]0;owned\x07\u202e\x9b31m"
HEADERS = {
    amqp.REQUEST_ID: str(UUID(int=7)),
    amqp.ERROR_CODE: "handler_failed",
    amqp.EXCEPTION_TYPE: "KeyError" + EVIL,
    amqp.EXCEPTION_MESSAGE: "KeyError: 'vip'" + EVIL,
    amqp.EXCEPTION_STACKTRACE: "Traceback\n  line 1" + EVIL,
    amqp.ATTEMPTS: 6,
    amqp.FAILED_AT: "2026-01-02T11:00:00.000+00:00",
    amqp.WORKER_ID: "host-1" + EVIL,
}


class Receipt:
    valid = True

    def ack(self) -> None: ...

    def requeue(self) -> None: ...


def letter(body: bytes, **headers: str) -> DeadLetter:
    return DeadLetter.of(
        CREATE_SESSION,
        Delivery(body, Receipt(), headers=HEADERS | headers, reply_to="a.reply" + EVIL, correlation_id=EVIL),
    )


def is_harmless(text: str) -> bool:
    return not any(character in text for character in "\x1b\x07\u202e\x9b")


def test_nothing_in_a_letter_commands_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """Headers and body are a requester's or a handler's: a table, a sheet, groups and JSON spell them out."""
    body = json.dumps({"user_id": "ada" + EVIL, EVIL: [EVIL]}, ensure_ascii=False).encode()
    given = letter(body)
    exception = str(HEADERS[amqp.EXCEPTION_TYPE])
    group = Group("create_session", "handler_failed", exception, 3, NOON, NOON, UUID(int=7), EVIL)
    row = given.document()
    for renderable in (letters.sheet(given), letters.table([row], NOON), letters.group_table([group], NOON)):
        assert is_harmless(shown(renderable, 200))
        assert "handler_failed" in shown(renderable, 200)
    streams.write_document(given.document(whole=True))
    printed = capsys.readouterr().out
    assert is_harmless(printed)
    assert json.loads(printed)["body"] == body.decode()


@pytest.mark.parametrize("moment", ["0001-01-01T00:00:00+00:00", "9999-12-31T23:59:59-23:59"])
def test_a_moment_that_the_readers_calendar_does_not_have_is_left_out(moment: str) -> None:
    strange = letter(b"{}", **{amqp.FAILED_AT: moment, amqp.FIRST_SEEN_AT: moment})
    assert "handler_failed" in shown(letters.sheet(strange), 200)


def test_a_sheet_says_in_words_what_happened_and_what_a_redrive_would_do() -> None:
    text = shown(letters.sheet(letter(b'{"user_id": "ada"}')), 200)
    assert "handler_failed: The handler failed on every attempt" in text
    assert "re-opens the request and sends it again" in text
    assert '  "user_id": "ada"' in text


def test_a_long_body_is_shown_in_part_and_a_body_that_is_no_text_is_spelled_out() -> None:
    text = shown(letters.sheet(letter(b"\xff\x00" + b"x" * 10_000)), 200)
    assert "\\xff\\x00xxx" in text
    assert "more characters: --json" in text
    assert len(text) < 8000


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


def test_the_queues_of_all_operations_are_few_lines_while_they_are_empty() -> None:
    """Each operation's work is there, and of the others what holds something, or is not as it should be."""
    queues = [
        *(Depth("session.create", 0, 2, is_work=True), Depth("session.get", 0, 2, is_work=True)),
        *(Depth("session.create.dead", 3, 0), Depth("session.create.retry.1s", 0, 0)),
        *(Depth("session.get.dead", None, None, "missing"), Depth("session.replies", 0, 0)),
    ]
    text = shown(picture(Snapshot(Look(TRAFFIC, []), queues)))
    assert [line.split()[0] for line in text.partition("queue ")[2].splitlines()[1:]] == [
        *("session.create", "session.get", "session.create.dead", "session.get.dead", "2"),
    ]


@pytest.mark.parametrize("messages", [0, 7])
@pytest.mark.parametrize(("width", "height"), [(60, 20), (40, 24), (80, 24), (80, 18), (200, 20)])
def test_a_screen_with_few_lines_shows_a_failure_all_the_same(width: int, height: int, messages: int) -> None:
    """Queues give way to it, those with most in them last, and the others are counted."""
    busy = Finished(5.0, {"completed": 640.0, "handler_failed": 9.0}, 0.004, 0.009)
    traffic = replace(TRAFFIC, lately=busy, minute=replace(busy, seconds=60.0), workers=["a-1-2", "b-3-4"])
    names = ["", *(f".retry.{delay}s" for delay in (1, 5, 30, 120, 600)), ".undelivered", ".dead"]
    queues = [Depth(f"session.create{name}", messages, 0, is_work=not name) for name in names]
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


def test_what_reads_a_pipe_gets_whole_lines(capsys: pytest.CaptureFixture[str]) -> None:
    """However long: they are cut into lines only where they are looked at."""
    prose = "a sentence that goes into a file " * 20
    terminal.results().print(prose)
    terminal.notices().print(prose)

    written = capsys.readouterr()

    assert [line.rstrip() for line in written.out.splitlines()] == [prose.rstrip()]
    assert [line.rstrip() for line in written.err.splitlines()] == [prose.rstrip()]


def test_of_a_progress_bar_nothing_stays_on_the_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last that a terminal gets moves to the bar's line and clears it."""
    screen = Console(file=(written := StringIO()), force_terminal=True, width=80)
    monkeypatch.setattr(terminal, "notices", lambda: screen)
    with Progress(1, what="letters") as progress:
        progress.advanced(1)
    text = written.getvalue()

    assert "letters" in text
    assert text.endswith("\r\x1b[1A\x1b[2K")
