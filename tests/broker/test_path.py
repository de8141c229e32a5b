"""The files that one request passes, from the socket to the acknowledgement, are those on the page."""

from __future__ import annotations

import asyncio
import re
import sys
import threading
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from session_worker.broker import frames
from session_worker.runtime.worker import Worker
from session_worker.settings import load
from tests.support.lab import request
from tests.support.waiting import soon

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

    from tests.support.lab import Lab

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "decisions" / "path.md"
PACKAGES = tuple(f"{ROOT}/{folder}/" for folder in ("contracts", "client", "worker"))
SEAMS = (
    "contracts/session_contracts/",
    *(f"worker/session_worker/{room}/" for room in ("messages", "operations", "ledger", "telemetry")),
)
"""What the steps of a request call without a reader having to open it, as the page says."""
LONGEST = 15
REQUESTS, WARM = 6, 3
"""The first ones fill caches."""


class Route:
    """The files whose code runs from a delivery's first frame until it is acknowledged, in that order."""

    def __init__(self) -> None:
        self.followed: list[dict[str, None]] = []
        self._files: dict[str, None] | None = None

    def has_followed(self, count: int) -> bool:
        return len(self.followed) == count

    def follow(self, frame: FrameType, event: str, _: object) -> None:
        if event != "call":
            return
        code = frame.f_code
        if code is frames.delivery.__code__:
            self._files = {}
        if self._files is not None and code.co_filename.startswith(PACKAGES):
            self._files[code.co_filename.removeprefix(f"{ROOT}/")] = None
        if code is frames.ack.__code__ and self._files is not None:
            self.followed.append(self._files)
            self._files = None


@pytest.fixture
def route() -> Iterator[Route]:
    route = Route()
    threading.setprofile(route.follow)
    sys.setprofile(route.follow)
    yield route
    sys.setprofile(None)
    threading.setprofile(None)


def _on_page(heading: str) -> set[str]:
    """The files that a section of the page names."""
    section = PAGE.read_text().partition(f"## {heading}\n")[2].partition("\n## ")[0]
    return set(re.findall(r"`((?:contracts|worker)/\S+\.py)`", section))


def _ask(lab: Lab, route: Route) -> None:
    """Send one request after the other, each when the one before is acknowledged."""
    with lab.requester() as requester:
        for count in range(1, REQUESTS + 1):
            requester.ask(request())
            soon(partial(route.has_followed, count))


async def test_the_path_of_a_request_is_the_one_on_the_page(lab: Lab, route: Route) -> None:
    """A heartbeat, or whatever else runs now and then, is in no request's path."""
    stop, up = asyncio.Event(), asyncio.Event()
    worker = asyncio.create_task(
        Worker(load(amqp_url=lab.url, ledger_url=lab.ledger_url), stop, up.set).run()
    )
    async with asyncio.timeout(60):
        await up.wait()
        await asyncio.to_thread(_ask, lab, route)
        stop.set()
        await worker
    first, *others = route.followed[WARM:]
    path = [file for file in first if all(file in other for other in others)]
    seams = [file for file in path if file.startswith(SEAMS)]
    own = [file for file in path if file not in seams]
    assert set(own) ^ _on_page("Its files") == set()
    assert set(seams) ^ _on_page("The seams") == set()
    assert len(own) <= LONGEST
