"""Workers under a supervisor: each place has one, with wires of its own, and a dead one is replaced."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.faults.support import start_worker

if TYPE_CHECKING:
    from tests.support.tcp_proxy import TcpProxy
    from tests.support.worker_process import WorkerProcess


class Place:
    """One worker at a time; ``all`` are those that were here. ``failures`` are the last words of those that
    ended by themselves and not well."""

    def __init__(
        self, folder: Path, broker: TcpProxy, ledger: TcpProxy | None, settings: dict[str, Any]
    ) -> None:
        self.broker = broker
        self.ledger = ledger
        self.all: list[WorkerProcess] = []
        self.failures: list[str] = []
        self.started_at = 0.0
        self._folder = folder
        self._settings = settings
        self._start()

    @property
    def worker(self) -> WorkerProcess:
        return self.all[-1]

    async def supervise(self) -> None:
        """Start the next worker whenever one has ended. Runs until cancelled."""
        while True:
            code = await asyncio.to_thread(self.worker.poll_end, 0.5)
            if code is None:
                continue
            self.worker.close()
            if code not in (0, -9):
                self.failures.append(f"exit code {code}: {self.worker.output[-1:]}")
            self._start()

    def _start(self) -> None:
        self.started_at = time.monotonic()
        self.all.append(start_worker(self._folder, **self._settings))


def memory_kib(pid: int) -> int:
    """Resident memory of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    return 0


def descriptors(pid: int) -> int:
    """Open file descriptors of a process."""
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
