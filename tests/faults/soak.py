"""A storm of random faults over some workers, and a checker that holds them to the promise.

    python -m tests.faults.soak --minutes 2 --seed 1 --ledger sqlite

Prints figures, and on failure the seed and the whole story of the request for which the promise was broken.
The exit code is 0 when it held.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
import time
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pika

from session_worker.ledger import upgrade
from tests.faults import audit
from tests.faults.crowd import Crowd
from tests.faults.fleet import Place, descriptors, memory_kib
from tests.faults.support import KEYS, NAMES, declare_on, settled
from tests.faults.weather import Weather
from tests.support.guard import Guard
from tests.support.servers import PostgreSQL, RabbitMQ
from tests.support.tcp_proxy import TcpProxy
from tests.support.waiting import eventually, soon

WORKERS = 2
MAX_CRASHES = 5
SETTINGS = {
    "retry_delays": "1,2,5",
    "holder_timeout": 3,
    "max_attempts": 4,
    "max_crashes": MAX_CRASHES,
    "handler_timeout": 10,
    "concurrency": 64,
    "shutdown_grace": 4,
}
RECOVERY = 180.0
"""Seconds after the storm within which everything must be answered and every queue empty."""
VHOST = "soak"


class Soak:
    """One run. ``run`` raises AuditError or AssertionError when the promise did not hold."""

    def __init__(self, seed: int, ledger: str, rate: float) -> None:
        self.seed = seed
        self._ledger = ledger
        self._rate = rate
        self.figures: dict[str, Any] = {"seed": seed, "ledger": ledger}
        self.places: list[Place] = []
        self.crowd: Crowd | None = None
        self.state: audit.Ledger | None = None

    async def run(self, minutes: float) -> None:
        async with AsyncExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="soak-")))
            broker = await asyncio.to_thread(stack.enter_context, RabbitMQ())
            postgresql = None
            if self._ledger == "postgresql":
                postgresql = await asyncio.to_thread(stack.enter_context, PostgreSQL())
            ledger_url = await self._ledger_url(folder, postgresql)
            url = broker.vhost(VHOST)
            await declare_on(url, (1, 2, 5))
            for _ in range(WORKERS):
                self.places.append(await self._place(stack, folder, url, ledger_url, postgresql))
            stack.callback(self._close_workers)
            await self._weather(broker, postgresql, url, ledger_url, minutes)
            self.state = await audit.read(ledger_url)
            await asyncio.to_thread(self._audit, url)

    def _close_workers(self) -> None:
        for place in self.places:
            place.worker.close()

    async def _ledger_url(self, folder: Path, postgresql: PostgreSQL | None) -> str:
        if postgresql is None:
            return f"sqlite:///{folder / 'ledger.db'}"
        url = await asyncio.to_thread(postgresql.createdb, "soak")
        await upgrade(url)
        return url

    async def _place(
        self, stack: AsyncExitStack, folder: Path, url: str, ledger_url: str, postgresql: PostgreSQL | None
    ) -> Place:
        broker = await stack.enter_async_context(TcpProxy(url))
        ledger = None if postgresql is None else await stack.enter_async_context(TcpProxy(ledger_url))
        place = Place(
            folder,
            broker,
            ledger,
            # A silent connection counts as lost after 9 s, three times the heartbeat and a second.
            {
                **SETTINGS,
                "amqp_url": f"{broker.url}?heartbeat=2",
                "ledger_url": ledger.url if ledger else ledger_url,
            },
        )
        await asyncio.to_thread(place.worker.wait_up)
        return place

    async def _weather(
        self, broker: RabbitMQ, postgresql: PostgreSQL | None, url: str, ledger_url: str, minutes: float
    ) -> None:
        crowd = self.crowd = Crowd(url, random.Random(self.seed), self._rate)
        path = ledger_url.removeprefix("sqlite:///")
        weather = Weather(random.Random(self.seed + 1), self.places, broker, postgresql, path)
        fresh = [_footprint(place) for place in self.places]
        begun = time.monotonic()
        talking = asyncio.create_task(crowd.run(), name="crowd")
        supervising = [asyncio.create_task(place.supervise(), name="supervisor") for place in self.places]
        storm = asyncio.create_task(weather.storm(), name="storm")
        try:
            done, _ = await asyncio.wait({talking, storm, *supervising}, timeout=minutes * 60)
            assert not done, f"ended before its time: {done}"
            storm.cancel()
            await asyncio.wait({storm})
            crowd.stop()
            self.figures["seconds of storm"] = round(time.monotonic() - begun)
            await self._calm(crowd, broker, begun=time.monotonic())
            self._compare(fresh)
        finally:
            for task in (talking, storm, *supervising):
                task.cancel()
            await asyncio.gather(talking, storm, *supervising, return_exceptions=True)
            self._count(crowd, weather)
        await self._end_workers()

    async def _calm(self, crowd: Crowd, broker: RabbitMQ, begun: float) -> None:
        try:
            await eventually(lambda: crowd.quiet, RECOVERY)
        except AssertionError:
            left = crowd.book.unanswered
            raise audit.AuditError(left[0].request_id if left else None, f"unanswered: {left[:3]}") from None
        await asyncio.to_thread(soon, lambda: settled(broker, VHOST), RECOVERY)
        self.figures["seconds to recover"] = round(time.monotonic() - begun, 1)

    def _compare(self, fresh: list[tuple[int, int]]) -> None:
        """Workers that lived on have the descriptors they began with, and about the memory."""
        now = [_footprint(place) for place in self.places]
        self.figures["age of the workers at the end, s"] = [
            round(time.monotonic() - place.started_at) for place in self.places
        ]
        self.figures["descriptors at start → end"] = [
            f"{a[0]} → {b[0]}" for a, b in zip(fresh, now, strict=True)
        ]
        self.figures["memory at start → end, MiB"] = [
            f"{a[1] // 1024} → {b[1] // 1024}" for a, b in zip(fresh, now, strict=True)
        ]
        for (files, memory), (files_now, memory_now) in zip(fresh, now, strict=True):
            assert files_now <= files + 6, f"file descriptors: {files} → {files_now}"
            assert memory_now <= memory + 65_536, f"memory: {memory} → {memory_now} KiB"

    async def _end_workers(self) -> None:
        for place in self.places:
            place.worker.terminate()
        codes = [await asyncio.to_thread(place.worker.wait) for place in self.places]
        assert codes == [0] * WORKERS, f"exit codes {codes}"
        self.figures["workers that gave up"] = [
            failure for place in self.places for failure in place.failures
        ]

    def _count(self, crowd: Crowd, weather: Weather) -> None:
        answers = [answer for some in crowd.book.answers.values() for answer in some]
        self.figures |= {
            "messages sent": len(crowd.book.sendings),
            "of them": crowd.kinds,
            "request ids": len(crowd.book.request_ids),
            "answers": len(answers),
            "outcomes": dict(Counter(answer.outcome for answer in answers)),
            "duplicates answered": sum(answer.replayed for answer in answers),
            "faults": weather.counts.total(),
            "faults by kind": dict(weather.counts.most_common()),
            "workers started": sum(len(place.all) for place in self.places),
            "longest gap in service, s": round(crowd.longest_gap, 1),
        }

    def _audit(self, url: str) -> None:
        assert self.crowd is not None
        assert self.state is not None
        letters = _letters(url)
        audit.check(self.crowd.book, self.state, MAX_CRASHES)
        doubles = audit.check_parked(self.crowd.book, self.state, letters, self.figures["faults"])
        crashes = sum(row.crashes for row in self.state.requests.values())
        self.figures |= {
            "parked": len(letters),
            "parked twice": doubles,
            "crashes counted on requests": crashes,
            "failed by five crashes of others": self._blamed(self.crowd, self.state),
            "sessions": len(self.state.sessions),
        }

    @staticmethod
    def _blamed(crowd: Crowd, state: audit.Ledger) -> int:
        """Requests that killed nobody and were running each time that a worker was killed."""
        rows = (row for row in state.requests.values() if row.outcome == "crashed_worker")
        return sum("crashed_worker" not in crowd.book.of(row.request_id)[0].outcomes for row in rows)

    def story(self, request_id: str | None) -> str:
        """All that is known of one request."""
        if request_id is None or self.crowd is None:
            return ""
        book = self.crowd.book
        lines = [f"sent: {each} answers: {book.answers[each.correlation_id]}" for each in book.of(request_id)]
        if self.state is not None:
            lines.append(f"ledger: {self.state.requests.get(request_id)}")
        ids = [request_id, *(each.correlation_id for each in book.of(request_id))]
        for place in self.places:
            for worker in place.all:
                lines += [line.strip() for line in worker.output if any(each in line for each in ids)]
        return "\n".join(lines)


def _footprint(place: Place) -> tuple[int, int]:
    return descriptors(place.worker.pid), memory_kib(place.worker.pid)


def _letters(url: str) -> list[audit.Letter]:
    connection = pika.BlockingConnection(pika.URLParameters(url))
    channel = connection.channel()
    letters = []
    for key in KEYS.values():
        while (got := channel.basic_get(NAMES.of(key).dead, auto_ack=True))[0] is not None:
            _, properties, body = got
            letters.append(audit.Letter(dict(properties.headers or {}), properties.correlation_id, body))
    connection.close()
    return letters


def soak(minutes: float, seed: int, ledger: str, rate: float = 25.0) -> bool:
    """Run one storm and print what came of it; whether the promise held."""
    run = Soak(seed, ledger, rate)
    held = True
    try:
        asyncio.run(run.run(minutes))
    except AssertionError as error:
        held = False
        print(f"FAILED with seed {seed}: {error}")
        print(run.story(getattr(error, "request_id", None)))
        if not isinstance(error, audit.AuditError):
            for place in run.places:
                print("".join(place.worker.output[-30:]))
    for name, figure in run.figures.items():
        print(f"{name}: {figure}")
    print("the promise held" if held else f"the promise did not hold; seed {seed}", flush=True)
    return held


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--ledger", choices=["sqlite", "postgresql", "both"], default="both")
    parser.add_argument("--rate", type=float, default=25.0, help="messages a second")
    given = parser.parse_args()
    ledgers = ["sqlite", "postgresql"] if given.ledger == "both" else [given.ledger]
    try:
        with Guard():
            held = [soak(given.minutes, given.seed, ledger, given.rate) for ledger in ledgers]
    except KeyboardInterrupt:
        return 130
    return 0 if all(held) else 1


if __name__ == "__main__":
    sys.exit(main())
