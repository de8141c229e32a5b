"""The log: one JSON line for an event, no secret in it, and a reader that cannot hold up the worker."""

from __future__ import annotations

import asyncio
import json
import os
import re
import threading
import time
from contextlib import suppress
from contextvars import copy_context
from types import UnionType
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin, get_type_hints
from uuid import UUID

import pytest
import structlog

from session_contracts import ErrorCode
from session_worker.telemetry import capture, events, log, stderr
from session_worker.telemetry.events import (
    AttemptEnded,
    Emit,
    Event,
    LinkFailed,
    OutcomeNotRecorded,
    RequestFinished,
    WorkerStopped,
)
from session_worker.telemetry.trace import Trace, TraceContext, current_trace
from tests.support.hostile import HOSTILE, commands_in

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.unit.telemetry.conftest import Pipe

REQUEST_ID = UUID(int=7)


def test_an_event_is_one_line_with_its_fields(pipe: Pipe, logging: Callable[[str], Emit]) -> None:
    emit = logging("info")
    emit(RequestFinished(REQUEST_ID, 2, "rejected", ErrorCode.REJECTED, None, 0.25, "create_session"))
    emit(AttemptEnded(REQUEST_ID, 2, 0.1, None))  # for those who debug
    (line,) = pipe.lines()
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "level": "info",
        "event": "request finished",
        "worker_id": "host-1",
        "request_id": str(REQUEST_ID),
        "attempt": 2,
        "outcome": "rejected",
        "error_code": "rejected",
        "error": None,
        "seconds": 0.25,
        "operation": "create_session",
    }


EXAMPLES: dict[Any, Any] = {
    UUID: REQUEST_ID,
    int: 3,
    float: 0.25,
    str: 'a "b", ✓',
    ErrorCode: ErrorCode.EXPIRED,
    Literal: "completed",
}


def _example(hint: Any) -> Any:
    """A value of the type; of the first one, if it may be of several."""
    if get_origin(hint) is UnionType:
        hint = get_args(hint)[0]
    return EXAMPLES[get_origin(hint) or hint]


@pytest.mark.parametrize("kind", [kind for kind in log.LINES if "exc_info" not in kind.__slots__])
def test_whatever_the_event_its_line_has_all_of_its_fields_in_their_order(
    kind: type[Event], pipe: Pipe, logging: Callable[[str], Emit]
) -> None:
    level, text = log.LINES[kind]
    hints = get_type_hints(kind, {**vars(events), "UUID": UUID, "ErrorCode": ErrorCode})
    values = {name: _example(hint) for name, hint in hints.items()}
    logging("debug")(kind(**values))
    (line,) = pipe.lines()
    del line["timestamp"]
    told = {name: str(value) if isinstance(value, UUID) else value for name, value in values.items()}
    assert list(line.items()) == list({"level": level, "worker_id": "host-1", "event": text, **told}.items())


def test_debug_says_more_and_error_less(pipe: Pipe, logging: Callable[[str], Emit]) -> None:
    for level, expected in (("debug", ["attempt ended", "worker stopped"]), ("error", [])):
        emit = logging(level)
        emit(AttemptEnded(REQUEST_ID, 2, 0.1, None))
        emit(WorkerStopped())
        assert [line["event"] for line in pipe.lines()] == expected


def test_times_are_times(pipe: Pipe, logging: Callable[[str], Emit], monkeypatch: pytest.MonkeyPatch) -> None:
    emit = logging("info")
    for now, text in ((0.0, "1970-01-01T00:00:00.000Z"), (1e9 + 0.25, "2001-09-09T01:46:40.250Z")):
        monkeypatch.setattr(time, "time", lambda now=now: now)
        emit(WorkerStopped())
        assert [line["timestamp"] for line in pipe.lines()] == [text]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("amqp://ada:s3cret@host:5672/vhost refused", "amqp://ada:***@host:5672/vhost refused"),
        ("postgresql://ada:s3:cret@[::1]/db", "postgresql://ada:***@[::1]/db"),
        ("postgresql://host/db?user=a&password=s3cret&x=1", "postgresql://host/db?user=a&password=***&x=1"),
        ("redis://:s3cret@host and amqps://b:s3cret@c", "redis://:***@host and amqps://b:***@c"),
        (
            "see https://example.com/a:b and mail@example.com",
            "see https://example.com/a:b and mail@example.com",
        ),
    ],
)
def test_a_password_in_a_url_is_never_shown(
    pipe: Pipe, logging: Callable[[str], Emit], text: str, shown: str
) -> None:
    """Whoever put it there: a library's exception, for example."""
    emit = logging("info")
    emit(LinkFailed(text, 1.0))
    emit(OutcomeNotRecorded(REQUEST_ID, 1, ValueError(text)))
    failed, crashed = pipe.lines()
    assert failed["reason"] == shown
    assert crashed["exception"].splitlines()[-1] == f"ValueError: {shown}"


@pytest.mark.parametrize("text", ["x" * 9000, "\x1b" * 9000, "\N{GRINNING FACE}" * 9000, "\ud800" * 9000])
def test_a_line_of_any_length_goes_out_in_one_piece(
    pipe: Pipe, logging: Callable[[str], Emit], text: str
) -> None:
    """Several processes share a pipe. A text too long loses its middle, and no secret comes to light."""
    secret = "amqp://ada:" + "s3cret" * 1000 + "@host/"
    emit = logging("info")
    emit(RequestFinished(REQUEST_ID, 6, "failed", ErrorCode.HANDLER_FAILED, text + secret + text, 0.5))
    line = pipe.read()
    assert len(line) <= stderr.PIPE_BUF
    error = json.loads(line)["error"]
    assert (error[:30], error[-60:]) == (text[:30], text[-60:])
    assert b"s3cret" not in line


def test_a_terminal_gets_a_line_for_people(
    pipe: Pipe, logging: Callable[[str], Emit], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipe, "isatty", lambda: True)
    logging("info")(LinkFailed("amqp://ada:s3cret@host", 1.0))
    text = pipe.read().decode()
    assert "no link to the broker" in text
    assert "ada:***@host" in text
    assert not text.startswith("{")


def readable(pipe: Pipe) -> str:
    """All that was written, without colours."""
    return re.sub(r"\x1b\[\d+m", "", pipe.read().decode())


def test_a_terminal_gets_an_ordinary_request_on_one_line_its_id_and_outcome_first(
    pipe: Pipe, logging: Callable[[str], Emit], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In 120 columns, and in UTC as everywhere. The worker is named where no request is, and an attempt
    where it is not the first."""
    monkeypatch.setattr(pipe, "isatty", lambda: True)
    monkeypatch.setattr(time, "time", lambda: 1e9 + 0.25)
    emit = logging("info")
    emit(RequestFinished(REQUEST_ID, 1, "completed", None, None, 12.3456, "create_session"))
    emit(RequestFinished(REQUEST_ID, 2, "completed", None, None, 12.3456, "create_session"))
    emit(WorkerStopped())

    finished, second, stopped = readable(pipe).splitlines()

    assert finished == (
        f"01:46:40.250Z info    request finished {REQUEST_ID} create_session completed seconds=12.346"
    )
    assert "attempt=2" in second
    assert len(finished) <= 120
    assert stopped == "01:46:40.250Z info    worker stopped   worker_id=host-1"


def test_what_a_terminal_would_obey_is_spelled_out(
    pipe: Pipe, logging: Callable[[str], Emit], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A handler's words are its own."""
    monkeypatch.setattr(pipe, "isatty", lambda: True)
    emit = logging("info")
    for error in ("evil\x1b]0;owned\x07", "evil\u202e", "evil\nline"):
        emit(RequestFinished(REQUEST_ID, 1, "failed", ErrorCode.HANDLER_FAILED, error, 0.1))
        assert f"error={error!r}" in (text := readable(pipe))
        assert len(text.splitlines()) == 1


@pytest.mark.parametrize("terminal", [False, True])
def test_nothing_in_a_line_commands_a_terminal(
    pipe: Pipe, logging: Callable[[str], Emit], monkeypatch: pytest.MonkeyPatch, terminal: bool
) -> None:
    """Neither a value nor its name, the event, or an exception: in JSON too, which is looked at as well."""
    monkeypatch.setattr(pipe, "isatty", lambda: terminal)
    emit = logging("info")
    emit(RequestFinished(REQUEST_ID, 1, "failed", ErrorCode.HANDLER_FAILED, HOSTILE, 0.1))
    emit(OutcomeNotRecorded(REQUEST_ID, 1, ValueError(HOSTILE)))
    with capture.output():
        structlog.get_logger().info(HOSTILE, **{HOSTILE: HOSTILE, "a": [HOSTILE], "b": {HOSTILE: HOSTILE}})
        print(HOSTILE)  # noqa: T201
    data = pipe.read()
    text = re.sub(r"\x1b\[\d*m", "", data.decode()) if terminal else data.decode()
    assert commands_in(text) == set()
    if not terminal:
        assert json.loads(data.splitlines()[0])["error"] == HOSTILE


def test_a_terminal_sees_where_an_exception_came_from_and_no_values(
    pipe: Pipe, logging: Callable[[str], Emit], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a frame held may be anybody's secret."""
    monkeypatch.setattr(pipe, "isatty", lambda: True)
    emit, broken = logging("info"), ValueError("out of order")

    def handle(secret: str) -> None:
        assert secret
        raise broken

    with suppress(ValueError):
        handle("tr0ub" + "4dor")
    emit(OutcomeNotRecorded(REQUEST_ID, 1, broken))
    text = readable(pipe)
    assert "in handle" in text
    assert "ValueError: out of order" in text
    assert "tr0ub4dor" not in text


def test_text_that_no_encoding_has_is_logged_all_the_same(pipe: Pipe, logging: Callable[[str], Emit]) -> None:
    logging("info")(LinkFailed("half a pair: \ud800", 1.0))
    assert pipe.lines()[0]["reason"] == "half a pair: \ud800"


def test_a_handlers_own_line_says_all_it_said_beside_what_is_ours(
    pipe: Pipe, logging: Callable[[str], Emit]
) -> None:
    """Who watches the log relies on our names; theirs are kept under others."""
    logging("info")
    with capture.output():
        structlog.get_logger().warning(["any", "thing"], level="gold", worker_id=7, timestamp=None, amount=3)
    line = pipe.read()
    assert line.count(b'"level"') == line.count(b'"timestamp"') == line.count(b'"worker_id"') == 1
    found = json.loads(line)
    assert found.pop("timestamp").endswith("Z")
    assert found == {
        "level": "warning",
        "worker_id": "host-1",
        "event": ["any", "thing"],
        "level_": "gold",
        "worker_id_": 7,
        "timestamp_": None,
        "amount": 3,
    }


# ------------------------------------------------------------------------------- standard error


async def test_the_lines_of_one_turn_of_the_loop_are_one_write(
    pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[bytes] = []
    write = os.write

    def remember(fd: int, data: bytes) -> int:
        written.append(data)
        return write(fd, data)

    monkeypatch.setattr(os, "write", remember)
    out = stderr.Stderr(pipe.fileno())
    for _ in range(3):
        out.write(b"line\n")
    assert pipe.read() == b""
    await asyncio.sleep(0)
    out.write(b"later\n")
    await asyncio.sleep(0)
    assert written == [b"line\nline\nline\n", b"later\n"]
    assert pipe.read() == b"line\nline\nline\nlater\n"


async def test_a_reader_that_stops_reading_holds_up_nobody_and_gets_the_rest_later(
    pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond a bound lines are dropped, and how many is said."""
    monkeypatch.setattr(stderr, "_AGAIN", 0)
    monkeypatch.setattr(stderr, "MAX_BYTES", 200_000)
    line = b"x" * 999 + b"\n"
    out = stderr.Stderr(pipe.fileno())
    for _ in range(300):
        out.write(line)
        await asyncio.sleep(0)  # a write that waits for the reader would wait here for ever
    got = b""
    async with asyncio.timeout(10):
        while b"dropped" not in got:
            got += pipe.read()
            await asyncio.sleep(0)
    *kept, last = got.splitlines(keepends=True)
    assert set(kept) == {line}
    assert json.loads(last) == {"event": "log lines dropped", "count": 300 - len(kept)}
    assert 200 < len(kept) < 300


async def test_a_thread_that_logs_beside_the_loop_ends_the_log_of_neither(
    pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread waits for a reader that has stopped reading; the loop goes on, and all is written later."""
    monkeypatch.setattr(stderr, "_AGAIN", 0)
    line = b"x" * 999 + b"\n"
    out = stderr.Stderr(pipe.fileno())
    for _ in range(100):  # more than the pipe holds
        out.write(line)
    await asyncio.sleep(0)
    thread = threading.Thread(target=out.flush)
    thread.start()
    while thread.is_alive():
        out.write(line)
        await asyncio.sleep(0.01)
    got = b""
    out.write(b"last\n")
    async with asyncio.timeout(10):
        while not got.endswith(b"last\n"):
            got += pipe.read()
            await asyncio.sleep(0)


async def test_a_line_that_is_longer_than_a_pipe_takes_at_once_stays_whole(pipe: Pipe) -> None:
    line = b"x" * (2 * stderr.PIPE_BUF + 100) + b"\n"
    out = stderr.Stderr(pipe.fileno())
    out.write(line)
    out.write(b"next\n")
    await asyncio.sleep(0)
    assert pipe.read() == line + b"next\n"


def test_flushing_gives_up_on_a_reader_that_does_not_read(
    pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stderr, "FLUSH_SECONDS", 0.01)
    out = stderr.Stderr(pipe.fileno())
    for _ in range(1000):
        out._lines.append(b"x" * 1000)
    out.flush()
    assert out._lines


async def test_a_reader_that_is_gone_is_no_error(pipe: Pipe) -> None:
    out = stderr.Stderr(pipe.fileno())
    os.close(pipe.reader)
    for _ in range(3):
        out.write(b"line\n")
        await asyncio.sleep(0)
    assert not out._lines
    out.flush()


async def test_standard_error_that_was_closed_is_no_error(pipe: Pipe) -> None:
    out = stderr.Stderr(pipe.fileno())
    pipe.close()
    out.write(b"line\n")
    await asyncio.sleep(0)
    assert not out._lines


async def test_a_pipe_that_another_process_fills_meanwhile_loses_nothing(
    pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It said that it is writable, and is not any more."""
    write, refusals = os.write, iter([True, True, False])

    def refuse_at_first(fd: int, data: bytes) -> int:
        if next(refusals):
            raise BlockingIOError
        return write(fd, data)

    monkeypatch.setattr(os, "write", refuse_at_first)
    monkeypatch.setattr(stderr, "_AGAIN", 0)
    out = stderr.Stderr(pipe.fileno())
    out.write(b"first\n")
    out.write(b"second\n")
    got = b""
    async with asyncio.timeout(10):
        while not got:
            got = pipe.read()
            await asyncio.sleep(0)
    assert got == b"first\nsecond\n"


def test_what_is_logged_last_is_written_before_an_end_at_once(
    pipe: Pipe, logging: Callable[[str], Emit]
) -> None:
    """The loop does not turn any more."""

    async def work() -> list[dict[str, Any]]:
        logging("info")(WorkerStopped())
        before = pipe.lines()
        log.flush()
        return [*before, *pipe.lines()]

    assert [line["event"] for line in asyncio.run(work())] == ["worker stopped"]


def test_a_line_about_a_request_names_its_trace_and_no_other_line_does(
    logging: Callable[[str], Emit], pipe: Pipe
) -> None:
    emit = logging("info")
    finished = RequestFinished(REQUEST_ID, 1, "completed", None)

    def within_a_trace() -> None:
        current_trace.set(Trace(TraceContext("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7", 1)))
        emit(finished)
        emit(WorkerStopped())

    copy_context().run(within_a_trace)
    emit(finished)
    traced, *others = pipe.lines()
    assert traced["trace_id"] == "4bf92f3577b34da6a3ce929d0e0e4736"
    assert len(others) == 2
    assert not any("trace_id" in line for line in others)
