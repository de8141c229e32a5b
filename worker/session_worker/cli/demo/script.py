"""The demo's requesters at work: every step of the plan, mixed, many at a time."""

from __future__ import annotations

import asyncio
import random
import time
from typing import TYPE_CHECKING

from session_client import RequestFailed, SessionClientError
from session_contracts import (
    CreateSessionPayload,
    CreateSessionRequest,
    CreateSessionResponse,
    RequestStatus,
    new_request_id,
)
from session_worker.cli.demo.plan import FAILS_TWICE, Counts, Plan
from session_worker.cli.demo.requester import NoAnswer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from uuid import UUID

    from session_client import SessionClient
    from session_worker.cli.demo.requester import RawRequester
    from session_worker.cli.progress import Progress

IN_FLIGHT = 100
TIMEOUT = 30.0
"""Seconds each requester waits for its answer."""
USER = "ada@example.com"


class Script:
    """Plays a plan and counts what comes back."""

    def __init__(self, plan: Plan, client: SessionClient, raw: RawRequester, progress: Progress) -> None:
        self._plan = plan
        self._client = client
        self._raw = raw
        self._progress = progress
        self._session_ids: set[str] = set()
        self._finished: list[UUID] = []
        self._any_finished = asyncio.Event()
        self._seen = dict.fromkeys(("completed", "duplicates", "retried", "refused"), 0)
        self.counts = Counts()
        self.failed_twice: list[UUID] = []
        self.latencies: list[float] = []
        """Seconds, of the plain requests."""
        self.seconds = 0.0

    async def play(self) -> None:
        """Send everything and wait for every answer."""
        started = time.perf_counter()
        steps = self._steps()
        async with asyncio.TaskGroup() as group:
            for _ in range(IN_FLIGHT):
                group.create_task(self._work(steps))
        self.seconds = time.perf_counter() - started
        self.counts.session_ids = len(self._session_ids)

    def _steps(self) -> Iterator[Callable[[], Awaitable[None]]]:
        steps = [
            *[self._plain] * self._plan.plain,
            *[self._failing_twice] * self._plan.failing_twice,
            *[self._thrice] * self._plan.thrice,
            *[self._conflict] * self._plan.conflicts,
            *[self._unreadable] * self._plan.unreadable,
        ]
        dice = random.Random(self._plan.count)  # noqa: S311 - the same order every time
        # Requests that need a third attempt come early; otherwise the demo would end with waiting for them.
        steps.sort(key=lambda step: dice.random() * (0.3 if step == self._failing_twice else 1.0))
        return iter(steps)

    async def _work(self, steps: Iterator[Callable[[], Awaitable[None]]]) -> None:
        for step in steps:
            await step()

    async def _plain(self) -> None:
        request_id = new_request_id()
        self.latencies.append(await self._create(request_id, "A session"))
        self._finished.append(request_id)
        self._any_finished.set()

    async def _failing_twice(self) -> None:
        self.failed_twice.append(new_request_id())
        await self._create(self.failed_twice[-1], FAILS_TWICE, "retried")

    async def _conflict(self) -> None:
        await self._any_finished.wait()
        await self._create(random.choice(self._finished), "Another session")  # noqa: S311 - any will do

    async def _create(self, request_id: UUID, title: str, kind: str = "completed") -> float:
        """Ask through the client, count the answer, return the seconds it took. ``kind``: a success's."""
        self.counts.sent += 1
        started = time.perf_counter()
        try:
            response = await self._client.create_session(
                user_id=USER, title=title, request_id=request_id, timeout=TIMEOUT
            )
        except RequestFailed as failed:
            self.counts.count(f"failed: {failed.code}")
            kind = "refused"
        except SessionClientError as error:
            self.counts.count(f"no answer: {type(error).__name__}")
            kind = ""
        else:
            self._count(response)
        self._show(kind)
        return time.perf_counter() - started

    async def _thrice(self) -> None:
        request = CreateSessionRequest(user_id=USER, payload=CreateSessionPayload(title="Sent three times"))
        body = request.model_dump_json().encode()
        answers = [*await asyncio.gather(self._ask(body), self._ask(body)), await self._ask(body)]
        self.counts.same_bytes += len(set(answers)) == 1 and answers[0] is not None

    async def _unreadable(self) -> None:
        await self._ask(b"{ this is not JSON")

    async def _ask(self, body: bytes) -> bytes | None:
        """Ask in bytes, count the answer, return it."""
        self.counts.sent += 1
        try:
            answer = await self._raw.ask(body)
        except NoAnswer as error:
            self.counts.count(f"no answer: {error}")
            self._show("")
            return None
        self.counts.replayed += answer.replayed
        response = CreateSessionResponse.model_validate_json(answer.body)
        self._count(response)
        completed = response.status is RequestStatus.COMPLETED
        self._show("duplicates" if answer.replayed else "completed" if completed else "refused")
        return answer.body

    def _show(self, kind: str) -> None:
        """One more answer beside the bar, under its kind."""
        if kind:
            self._seen[kind] += 1
        note = ", ".join(f"{count:,} {name}" for name, count in self._seen.items())
        self._progress.answered(note=note)

    def _count(self, response: CreateSessionResponse) -> None:
        if response.status is RequestStatus.COMPLETED:
            self._session_ids.add(response.payload.session_id)
            self.counts.count(response.status.value)
        else:
            self.counts.count(f"failed: {response.metadata.get('error_code')}")
