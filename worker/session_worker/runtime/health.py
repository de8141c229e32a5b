"""What worker processes report, and what it means: is the worker alive, is it ready?"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from session_worker.telemetry import metrics

if TYPE_CHECKING:
    from collections.abc import Callable

BEAT_SECONDS = 1.0
"""How often a process reports without being asked."""
STUCK_SECONDS = 5.0
"""An event loop that has not turned for so long counts as stuck: a handler blocks it."""
STARTING = "starting"
TOLD_TO_STOP = "the worker was told to stop"


@dataclass(frozen=True, slots=True)
class Report:
    """One process at one moment.

    ``checks`` has each thing that it needs to be ready, with "" or the reason why it has not got it.
    ``started`` says whether it has consumed before.
    """

    pid: int
    worker_id: str
    started: bool
    checks: dict[str, str]
    metrics: dict[str, Any]

    def encode(self) -> bytes:
        """The report as one line of JSON."""
        return json.dumps(asdict(self)).encode() + b"\n"

    @classmethod
    def decode(cls, line: bytes) -> Report:
        return cls(**json.loads(line))


class Reporter:
    """Reports on an event loop: every ``BEAT_SECONDS``, and when somebody asks."""

    def __init__(self, tell: Callable[[Report], None]) -> None:
        self._tell = tell
        self._loop: asyncio.AbstractEventLoop | None = None
        self._report: Callable[[], Report] | None = None
        self._asked = False

    async def run(self, report: Callable[[], Report]) -> None:
        """Tell what ``report`` returns until cancelled, and then once more."""
        self._report = report
        self._loop = asyncio.get_running_loop()
        try:
            while True:
                self._now()
                await asyncio.sleep(BEAT_SECONDS)
        finally:
            self._now()

    def ask(self) -> None:
        """Have a report told soon if the loop turns. This may be called from any thread."""
        if self._loop is not None and not self._asked:
            self._asked = True
            with suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._now)

    def _now(self) -> None:
        self._asked = False
        if self._report is not None:
            self._tell(self._report())


@dataclass(slots=True)
class _Place:
    """A place for a process, and its last report; ``note`` says why there is none."""

    note: str = STARTING
    report: Report | None = None
    at: float = 0.0


@dataclass(slots=True)
class Board:
    """The last report of each process. Event loops write it, the threads of the ops port read it.

    ``ask`` has every process report soon.
    """

    processes: int
    ask: Callable[[], None] = lambda: None
    _places: dict[int, _Place] = field(default_factory=dict)
    _past: list[dict[str, Any]] = field(default_factory=list)
    _stopping: bool = False
    _changed: threading.Condition = field(default_factory=threading.Condition)

    def __post_init__(self) -> None:
        self._places = {number: _Place() for number in range(1, self.processes + 1)}

    def put(self, number: int, report: Report) -> None:
        """Take what the process in place ``number`` (from 1) says now."""
        with self._changed:
            self._places[number] = _Place("", report, time.monotonic())
            self._changed.notify_all()

    def gone(self, number: int, note: str) -> None:
        """Note that the process in this place has ended. What it counted stays."""
        with self._changed:
            report = self._places[number].report
            if report is not None:
                self._past = [metrics.merge([*self._past, metrics.counted(report.metrics)])]
            self._places[number] = _Place(note)
            self._changed.notify_all()

    def stop(self) -> None:
        """From now on nothing is ready any more."""
        self._stopping = True

    def refresh(self, seconds: float) -> None:
        """Have every process report that can do so within ``seconds``."""
        asked = time.monotonic()
        self.ask()
        with self._changed:
            self._changed.wait_for(
                lambda: all(place.report is None or place.at >= asked for place in self._places.values()),
                seconds,
            )

    def live(self) -> tuple[bool, dict[str, Any]]:
        """Whether every event loop turns. A process that is starting or being replaced is no reason to end
        the others, and counts as live."""
        now = time.monotonic()
        found = [
            {
                "pid": place.report.pid,
                "worker_id": place.report.worker_id,
                "seconds_since_last_turn": round(now - place.at, 1),
            }
            for place in self._places.values()
            if place.report is not None
        ]
        live = not any(_stuck(place, now) for place in self._places.values())
        return live, {"live": live, "processes": found}

    def ready(self) -> tuple[bool, dict[str, Any]]:
        """Whether every process works; for each check "ok" or the reason why not."""
        now = time.monotonic()
        found: dict[str, dict[str, list[int]]] = {}
        for number, place in self._places.items():
            for name, reason in _checks(place, now, stopping=self._stopping).items():
                said = found.setdefault(name, {})
                if reason:
                    said.setdefault(reason, []).append(number)
        ready = not any(found.values())
        return ready, {"ready": ready, "checks": {name: self._say(said) for name, said in found.items()}}

    def _say(self, said: dict[str, list[int]]) -> str:
        """Either "ok" or the reasons, each with the processes that give it unless all of them do."""
        return (
            "; ".join(
                reason
                if len(numbers) == self.processes
                else f"process {', '.join(map(str, numbers))}: {reason}"
                for reason, numbers in said.items()
            )
            or "ok"
        )

    def metrics(self) -> bytes:
        """What all processes counted, those that are gone included, as Prometheus reads it."""
        with self._changed:
            living = [place.report.metrics for place in self._places.values() if place.report is not None]
            past = self._past
        return metrics.render(metrics.merge([*past, *living]))


def _checks(place: _Place, now: float, *, stopping: bool) -> dict[str, str]:
    loop = _stuck(place, now) if place.report is not None else place.note
    checks = {"loop": loop} | (place.report.checks if place.report is not None else {})
    return checks | ({"shutdown": TOLD_TO_STOP} if stopping else {})


def _stuck(place: _Place, now: float) -> str:
    silent = now - place.at
    if place.report is None or silent < STUCK_SECONDS:
        return ""
    return f"the event loop has not turned for {silent:.0f} s; a handler blocks it"
