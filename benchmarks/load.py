"""Closed loops: so many requests under way, and a new one for each that is answered."""

from __future__ import annotations

import time
from itertools import islice
from typing import TYPE_CHECKING

from benchmarks.messages import new_request

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from benchmarks.messages import Request
    from benchmarks.stage import Run
    from benchmarks.wire import Reply

WARM_UP = 256


class ClosedLoop:
    """Keeps `in_flight` of the requests under way; `latencies` are seconds from send to reply.

    With `per_second` it sends no faster than that: what takes equally long would else come back in bursts.
    """

    def __init__(
        self, run: Run, requests: Iterable[Request], in_flight: int, per_second: float | None = None
    ) -> None:
        self._run = run
        self._waiting = iter(run.encoded(requests))
        self._in_flight = in_flight
        self._per_second = per_second
        self._started = time.perf_counter()
        self._sent: dict[str, tuple[Request, float]] = {}
        self._answered: list[tuple[Request, Reply]] = []
        self.latencies: list[float] = []

    @property
    def under_way(self) -> bool:
        return bool(self._sent)

    def top_up(self) -> None:
        now = time.perf_counter()
        room = self._in_flight - len(self._sent)
        if self._per_second is not None:
            due = int((now - self._started) * self._per_second)
            room = max(0, min(room, due - len(self._answered) - len(self._sent)))
        batch = list(islice(self._waiting, room))
        if batch:
            self._sent |= {request.id: (request, now) for request, _ in batch}
            self._run.sender.send(b"".join(frames for _, frames in batch))

    @property
    def replies(self) -> Sequence[Reply]:
        """Those that have come, one for each request."""
        return [reply for _, reply in self._answered]

    def take(self, reply: Reply) -> None:
        """Note a reply, if it is to one of ours."""
        found = self._sent.pop(self._run.contestant.format.id_of(reply), None)
        if found is not None:
            request, start = found
            self.latencies.append(reply.at - start)
            self._answered.append((request, reply))

    def check(self) -> None:
        """Raises ContestantError when an answer is wrong."""
        for request, reply in self._answered:
            self._run.check(request, reply)


def drive(run: Run, main: ClosedLoop, *others: ClosedLoop) -> None:
    """Turn all loops until the main one is through, then wait for what is still under way.

    Raises:
        ContestantError: an answer is wrong.
        WireError: an answer is missing.
    """
    loops = (main, *others)
    for loop in loops:
        loop.top_up()
    while any(loop.under_way for loop in loops):
        for reply in run.read():
            for loop in loops:
                loop.take(reply)
        main.top_up()
        if main.under_way:
            for loop in others:
                loop.top_up()
    for loop in loops:
        loop.check()


def closed_loop(run: Run, requests: Sequence[Request], in_flight: int) -> list[float]:
    """The latencies of requests of which `in_flight` are under way, in seconds."""
    loop = ClosedLoop(run, requests, in_flight)
    drive(run, loop)
    return loop.latencies


def warm_up(run: Run, title: str | None = None) -> None:
    """A few requests, so that pools are filled and what is loaded late is loaded."""
    closed_loop(run, [new_request(title) for _ in range(WARM_UP)], 16)
