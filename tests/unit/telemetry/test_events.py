"""Every event is emitted somewhere and has a line of its own; subscribers hear what they listen to."""

from __future__ import annotations

import ast
from dataclasses import FrozenInstanceError, fields
from pathlib import Path
from uuid import uuid4

import pytest

from session_worker.telemetry.events import (
    EVENTS,
    Event,
    RequestHandedBack,
    RequestTakenOver,
    WorkerStopped,
    emitter,
)
from session_worker.telemetry.log import LINES

ROOT = Path(__file__).resolve().parents[3]
WORKER = ROOT / "worker" / "session_worker"
DIRECTLY = {f"runtime/{name}.py" for name in ("ops", "process", "reloading", "stopping", "supervisor")}
"""These say what befalls the process when no worker is there to tell it: a stray error, an end at once."""


def _trees() -> list[tuple[Path, ast.Module]]:
    return [
        (path, ast.parse(path.read_text()))
        for path in sorted(WORKER.rglob("*.py"))
        if path.parent.name != "telemetry"
    ]


def test_every_event_has_a_place_where_it_is_emitted() -> None:
    named = {node.id for _, tree in _trees() for node in ast.walk(tree) if isinstance(node, ast.Name)}
    assert set(EVENTS) == {event for event in EVENTS if event.__name__ in named}


def test_nothing_but_the_telemetry_logs() -> None:
    importing = {
        path.relative_to(WORKER).as_posix()
        for path, tree in _trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        and node.module == "session_worker.telemetry.log"
        and any(name.name == "say" for name in node.names)
    }
    assert importing == DIRECTLY


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.__name__)
def test_every_event_has_a_line_of_its_own_and_says_when_it_happens(event: type[Event]) -> None:
    assert event.__doc__ is not None
    assert not event.__doc__.startswith(event.__name__)
    names = {field.name for field in fields(event)}  # type: ignore[arg-type]
    assert ("request_id" in names) == ("attempt" in names)
    assert not names & {"event", "level", "timestamp", "worker_id"}  # those are the line's own


def test_no_two_events_have_the_same_line() -> None:
    assert LINES.keys() == set(EVENTS)
    assert len({text for _, text in LINES.values()}) == len(EVENTS)


def test_events_do_not_change() -> None:
    event = RequestHandedBack(uuid4(), 1)
    with pytest.raises(FrozenInstanceError):
        event.attempt = 2  # type: ignore[misc]


def test_subscribers_hear_what_they_listen_to_at_once_and_in_order() -> None:
    heard: list[tuple[str, Event]] = []
    back, over = RequestHandedBack(uuid4(), 1), RequestTakenOver(uuid4(), 2)
    emit = emitter(
        {RequestHandedBack: lambda event: heard.append(("first", event))},
        {
            RequestHandedBack: lambda event: heard.append(("second", event)),
            RequestTakenOver: lambda event: heard.append(("second", event)),
        },
    )
    for event in (back, WorkerStopped(), over):
        emit(event)
    assert heard == [("first", back), ("second", back), ("second", over)]
