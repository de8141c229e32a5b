"""A handler's exception at a terminal: in colours, and without the frames of what called the handler."""

from __future__ import annotations

import asyncio
import json
import re
import sqlite3
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest

from session_contracts import CreateSessionPayload, CreateSessionRequest
from session_worker.operations.binding import callable_handler
from session_worker.operations.errors import AppError
from session_worker.operations.handler import Context
from session_worker.requests import attempt
from session_worker.telemetry import tracebacks
from session_worker.telemetry.events import AttemptFailed, Emit, OutcomeNotRecorded
from tests.support import parts

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.unit.telemetry.conftest import Pipe

REQUEST_ID = UUID(int=7)


def fetch() -> None:
    raise LookupError("no such cargo")


async def plain(*_: object) -> None:
    fetch()


def in_a_thread(*_: object) -> None:
    fetch()


async def caused(*_: object) -> None:
    try:
        fetch()
    except LookupError as error:
        raise RuntimeError("not shipped") from error


async def several(*_: object) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(plain())
        group.create_task(caused())


async def slow(*_: object) -> None:
    await asyncio.sleep(60)


async def wrong_result(*_: object) -> Any:
    return {1: 2}


async def library(*_: object) -> None:
    sqlite3.connect(":memory:").execute("nonsense")


async def failure(handler: Any) -> AttemptFailed:
    """What the worker says of an attempt with this handler."""
    request = CreateSessionRequest(user_id="ada@example.com", payload=CreateSessionPayload())
    context = Context("ts_1", REQUEST_ID, 1, datetime.now(UTC), None)
    called = callable_handler(handler, "handler", example="")
    failed = await attempt.run(parts.hooked(called), request, context, 0.5)
    assert isinstance(failed, attempt.Failure)
    return AttemptFailed(REQUEST_ID, 1, failed.code, failed.message, None, failed.stacktrace)


def functions(text: str) -> list[str]:
    return re.findall(r"line \d+, in (\w+)", text)


@pytest.mark.parametrize(
    ("handler", "frames"),
    [
        (plain, ["plain", "fetch"]),
        (in_a_thread, ["in_a_thread", "fetch"]),
        (caused, ["caused", "fetch", "caused"]),
        (library, ["library"]),
        (wrong_result, []),
    ],
)
async def test_it_has_the_handlers_frames_the_innermost_last_and_none_of_ours(
    handler: Any,
    frames: list[str],
    pipe: Pipe,
    logging: Callable[[str], Emit],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    event = await failure(handler)
    monkeypatch.setattr(pipe, "isatty", lambda: True)
    logging("info")(event)
    await asyncio.sleep(0)
    shown = pipe.read().decode()
    assert "\x1b[36m" in shown or not frames
    text = re.sub(r"\x1b\[\d+m", "", shown)
    assert functions(text) == frames
    assert text.rstrip().endswith(event.exception.splitlines()[-1]), "the error itself comes last"
    assert ("Traceback" in text) == bool(frames)


async def test_groups_and_what_was_cut_off_keep_their_form() -> None:
    for handler, frame in (several, "fetch"), (slow, "slow"):
        text = tracebacks.of_handler((await failure(handler)).exception)
        assert frame in functions(text)
        assert "session_worker/requests" not in text


async def test_colours_change_no_word() -> None:
    for handler in (plain, caused, several, slow):
        text = (await failure(handler)).exception
        coloured = tracebacks.coloured(text)
        assert coloured != text
        assert re.sub(r"\x1b\[\d+m", "", coloured) == text


async def test_a_log_for_machines_has_all_frames_and_no_colours(
    pipe: Pipe, logging: Callable[[str], Emit]
) -> None:
    event = await failure(in_a_thread)
    assert len(functions(event.exception)) > 2, "it went by way of a thread"
    logging("info")(event)
    await asyncio.sleep(0)
    assert json.loads(pipe.read())["exception"] == event.exception


def test_of_an_error_of_the_worker_a_terminal_shows_our_frames(
    pipe: Pipe, logging: Callable[[str], Emit], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipe, "isatty", lambda: True)
    with pytest.raises(AppError) as raised:
        callable_handler(None, "handler", example="")
    raised.value.__traceback__ = raised.value.__traceback__.tb_next  # type: ignore[union-attr]
    logging("info")(OutcomeNotRecorded(REQUEST_ID, 1, raised.value))
    assert functions(re.sub(r"\x1b\[\d+m", "", pipe.read().decode())) == ["callable_handler"]
