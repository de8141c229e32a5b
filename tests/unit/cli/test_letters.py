"""Dead letters as people and programs read them."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from uuid import UUID

import pytest

from session_contracts import amqp
from session_worker.cli import streams
from session_worker.cli.views import letters
from session_worker.messages.delivery import Delivery
from session_worker.operators import dead_letters
from session_worker.operators.dead_letters import DeadLetter, Group
from tests.unit.cli.test_words import shown

NOON = datetime(2026, 1, 2, 12, 0, tzinfo=UTC)
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
        Delivery(body, Receipt(), headers=HEADERS | headers, reply_to="a.reply" + EVIL, correlation_id=EVIL)
    )


def harmless(text: str) -> bool:
    return not any(character in text for character in "\x1b\x07\u202e\x9b")


def test_nothing_in_a_letter_commands_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """Headers and body are a requester's or a handler's: a table, a sheet, groups and JSON spell them out."""
    body = json.dumps({"user_id": "ada" + EVIL, EVIL: [EVIL]}, ensure_ascii=False).encode()
    given = letter(body)
    group = Group("handler_failed", HEADERS[amqp.EXCEPTION_TYPE], 3, NOON, NOON, UUID(int=7), EVIL)  # type: ignore[arg-type]
    row = dead_letters.document(given)
    for renderable in (letters.sheet(given), letters.table([row], NOON), letters.group_table([group], NOON)):
        assert harmless(shown(renderable, 200))
        assert "handler_failed" in shown(renderable, 200)
    streams.write_document(dead_letters.whole_document(given))
    printed = capsys.readouterr().out
    assert harmless(printed)
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
