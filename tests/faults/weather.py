"""The faults of a storm, by kind; each one begins, lasts a while, and is over when its coroutine returns."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
from collections import Counter
from contextlib import closing, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random
    from collections.abc import Awaitable, Callable, Sequence

    from tests.faults.fleet import Place
    from tests.support.tcp_proxy import Mode, TcpProxy
    from worker.sandbox import PostgreSQL, RabbitMQ


class Weather:
    """Breaks one thing after the other. ``counts`` are the faults so far, by kind."""

    def __init__(
        self,
        chance: random.Random,
        places: Sequence[Place],
        broker: RabbitMQ,
        postgresql: PostgreSQL | None,
        ledger_path: str,
    ) -> None:
        self.counts: Counter[str] = Counter()
        self._chance = chance
        self._places = places
        self._broker = broker
        self._postgresql = postgresql
        self._ledger_path = ledger_path
        self._frozen: set[asyncio.Task[None]] = set()
        kinds: dict[str, tuple[int, Callable[[], Awaitable[None]]]] = {
            "worker killed": (6, self._kill_worker),
            "worker terminated": (4, self._terminate_worker),
            "worker frozen": (4, self._freeze_worker),
            "broker connections reset": (5, lambda: self._reset(self._place().broker)),
            "broker connections cut": (3, lambda: self._cut(self._place().broker)),
            "broker network stalled": (2, lambda: self._network(self._place().broker, "stall", 1, 14)),
            "broker half-open, up": (2, lambda: self._network(self._place().broker, "stall-up", 1, 14)),
            "broker half-open, down": (2, lambda: self._network(self._place().broker, "stall-down", 1, 14)),
            "broker network slow": (2, lambda: self._network(self._place().broker, "slow", 1, 6)),
            "broker away": (2, self._broker_network_away),
            "connections closed by the broker": (3, self._close_connections),
            "broker restarted": (2, lambda: self._restart_broker(self._broker.stop)),
            "broker killed": (2, lambda: self._restart_broker(self._broker.kill)),
            "memory alarm": (2, self._alarm),
        }
        if postgresql is None:
            kinds["ledger locked"] = (5, self._lock_ledger)
        else:
            kinds |= {
                "ledger connections reset": (4, lambda: self._reset(self._ledger_proxy())),
                "ledger connections cut": (3, lambda: self._cut(self._ledger_proxy())),
                "ledger network stalled": (3, lambda: self._network(self._ledger_proxy(), "stall", 1, 12)),
                "ledger half-open": (2, lambda: self._network(self._ledger_proxy(), "stall-down", 1, 12)),
                "ledger network slow": (1, lambda: self._network(self._ledger_proxy(), "slow", 1, 6)),
                "ledger restarted": (2, lambda: self._restart_ledger(postgresql, postgresql.stop)),
                "ledger killed": (2, lambda: self._restart_ledger(postgresql, postgresql.kill)),
            }
        self._kinds = kinds

    async def storm(self) -> None:
        """One fault after the other, until cancelled; then everything is mended."""
        try:
            while True:
                await asyncio.sleep(self._chance.uniform(0.3, 3))
                kinds = list(self._kinds)
                kind = self._chance.choices(kinds, [self._kinds[each][0] for each in kinds])[0]
                self.counts[kind] += 1
                # A fault that has begun is carried through: half of it would be another fault.
                fault = asyncio.ensure_future(self._kinds[kind][1]())
                try:
                    await asyncio.shield(fault)
                except asyncio.CancelledError:
                    await fault
                    raise
        finally:
            await asyncio.gather(*self._frozen)

    def _place(self) -> Place:
        return self._chance.choice(self._places)

    def _ledger_proxy(self) -> TcpProxy:
        proxy = self._place().ledger
        assert proxy is not None
        return proxy

    # ------------------------------------------------------------------------------- workers

    async def _kill_worker(self) -> None:
        self._place().worker.send_signal(signal.SIGKILL)

    async def _terminate_worker(self) -> None:
        self._place().worker.terminate()

    async def _freeze_worker(self) -> None:
        """A zombie: it is taken for dead and goes on later."""
        task = asyncio.create_task(self._freeze(self._place(), self._chance.uniform(0.5, 10)))
        self._frozen.add(task)
        task.add_done_callback(self._frozen.discard)

    async def _freeze(self, place: Place, seconds: float) -> None:
        worker = place.worker
        worker.send_signal(signal.SIGSTOP)
        await asyncio.sleep(seconds)
        worker.send_signal(signal.SIGCONT)

    # ------------------------------------------------------------------------------- networks

    async def _reset(self, proxy: TcpProxy) -> None:
        proxy.reset()

    async def _cut(self, proxy: TcpProxy) -> None:
        proxy.cut()

    async def _network(self, proxy: TcpProxy, mode: Mode, shortest: float, longest: float) -> None:
        proxy.mode = mode
        await asyncio.sleep(self._chance.uniform(shortest, longest))
        proxy.mode = "pass"

    async def _broker_network_away(self) -> None:
        proxy = self._place().broker
        await proxy.refuse()
        proxy.reset()
        await asyncio.sleep(self._chance.uniform(0.5, 5))
        await proxy.accept()

    # ------------------------------------------------------------------------------- servers

    async def _close_connections(self) -> None:
        await asyncio.to_thread(self._broker.close_connections)

    async def _restart_broker(self, end: Callable[[], None]) -> None:
        await asyncio.to_thread(end)
        await asyncio.sleep(self._chance.uniform(0, 3))
        await asyncio.to_thread(self._broker.start)

    async def _alarm(self) -> None:
        await asyncio.to_thread(self._broker.set_alarm, True)
        await asyncio.sleep(self._chance.uniform(1, 6))
        await asyncio.to_thread(self._broker.set_alarm, False)

    async def _restart_ledger(self, postgresql: PostgreSQL, end: Callable[[], None]) -> None:
        await asyncio.to_thread(end)
        await asyncio.sleep(self._chance.uniform(0, 6))
        await asyncio.to_thread(postgresql.start)

    async def _lock_ledger(self) -> None:
        """Another process writes and does not come to an end."""
        with closing(sqlite3.connect(self._ledger_path, timeout=1, isolation_level=None)) as database:
            with suppress(sqlite3.OperationalError):
                database.execute("BEGIN EXCLUSIVE")
            await asyncio.sleep(self._chance.uniform(0.5, 8))
