"""The faults of a storm, by kind; each one begins, lasts a while, and is over when its coroutine returns."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import closing, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence

    from tests.faults.fleet import Place
    from tests.support.servers import PostgreSQL, RabbitMQ
    from tests.support.tcp_proxy import Mode, TcpProxy

Kinds = dict[str, tuple[int, Callable[[], Awaitable[None]]]]
"""Faults by name: how often each is chosen, and how it is done."""


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
        self._mending: set[asyncio.Future[None]] = set()
        self._on_workers: Kinds = {
            "worker killed": (3, self._kill_worker),
            "worker terminated": (2, self._terminate_worker),
            "worker frozen": (2, self._freeze_worker),
        }
        kinds: Kinds = {
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
        self._on_servers = kinds

    async def storm(self) -> None:
        """Break workers and, at the same time, what they need, until cancelled; then everything is mended."""
        try:
            await asyncio.gather(self._break(self._on_workers, 8), self._break(self._on_servers, 2))
        finally:
            await asyncio.gather(*self._mending)

    async def _break(self, kinds: Kinds, pause: float) -> None:
        names, weights = list(kinds), [weight for weight, _ in kinds.values()]
        while True:
            await asyncio.sleep(self._chance.uniform(0.2, 2 * pause))
            kind = self._chance.choices(names, weights)[0]
            self.counts[kind] += 1
            # A fault that has begun is carried through, also at the end of the storm.
            fault = asyncio.ensure_future(kinds[kind][1]())
            self._mending.add(fault)
            fault.add_done_callback(self._mending.discard)
            await asyncio.shield(fault)

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
        worker = self._place().worker
        worker.send_signal(signal.SIGSTOP)
        await asyncio.sleep(self._chance.uniform(0.5, 8))
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
