"""A contestant as a process: started, frozen, measured, ended."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from benchmarks import wire

if TYPE_CHECKING:
    from collections.abc import Sequence

START_SECONDS: Final = 60.0
STOP_SECONDS: Final = 10.0
POLL_SECONDS: Final = 0.02
_CPU_CLOCK: Final = 2
"""The bits that make a process id the id of its CPU clock (clock_getcpuclockid(3))."""


class ContestantError(Exception):
    """A contestant did not start, died, or gave a wrong answer; with what it printed last."""


class ContestantProcess:
    """A command and all its descendants, in sessions of their own; SIGTERM at the end, SIGKILL if need be."""

    def __init__(self, name: str, command: Sequence[str], environment: dict[str, str], log: Path) -> None:
        self._name = name
        self._log = log
        inherited = {
            name: value for name, value in os.environ.items() if not name.startswith("SESSION_WORKER_")
        }
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                command,
                env=inherited | environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._signal(signal.SIGCONT)
        self._signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            pass
        finally:
            self._signal(signal.SIGKILL)  # and whoever stayed behind
            self._process.wait()

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait_consuming(self, url: str, queue: str, consumers: int = 1) -> None:
        """Wait until so many consume from the queue.

        Raises:
            ContestantError: the process ended, or took too long.
        """
        deadline = time.monotonic() + START_SECONDS
        while wire.consumers(url, queue) < consumers:
            self.check()
            if time.monotonic() > deadline:
                raise ContestantError(
                    f"{self._name} did not consume within {START_SECONDS:.0f} s: {self._tail()}"
                )
            time.sleep(POLL_SECONDS)

    def check(self) -> None:
        """Raises ContestantError when it has ended."""
        if self._process.poll() is not None:
            raise ContestantError(
                f"{self._name} ended with exit code {self._process.returncode}: {self._tail()}"
            )

    def freeze(self) -> None:
        """Stop all its threads where they are."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def cpu_seconds(self) -> float:
        """CPU time of all its processes so far."""
        return sum(_cpu_seconds(pid) for pid in self._pids())

    def peak_rss(self) -> list[int]:
        """The peak resident memory of each of its processes, in bytes."""
        return [_peak_rss(pid) for pid in self._pids()]

    def _pids(self) -> list[int]:
        """The first one, those of its session, which children keep, and all who descend from them."""
        first = self._process.pid
        pids = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]
        found = {pid for pid in pids if pid == first or _session(pid) == first}
        parents = {pid: _parent(pid) for pid in pids}
        while more := {pid for pid, parent in parents.items() if parent in found} - found:
            found |= more
        return sorted(found)

    def _signal(self, number: signal.Signals) -> None:
        for pid in self._pids():
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue

    def _tail(self) -> str:
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-20:])


def _session(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return None


def _parent(pid: int) -> int:
    """0 when it has just ended."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return 0


def _cpu_seconds(pid: int) -> float:
    try:
        return time.clock_gettime((~pid << 3) | _CPU_CLOCK)
    except OSError:  # it has just ended
        return 0.0


def _peak_rss(pid: int) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:  # it has just ended
        return 0
    return next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM")), 0)
