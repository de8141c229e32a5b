"""The worker as its users run it: a process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import signal
    from collections.abc import Callable, Sequence

PROGRAM = Path(sys.executable).with_name("session-worker")


class WorkerProcess:
    """`session-worker run` with settings by environment: `amqp_url=…` is `SESSION_WORKER_AMQP_URL`.

    `env` adds other variables, `folder` is where it runs, `command` what runs in its place. `logs` are its
    JSON lines, `output` all lines.
    """

    def __init__(
        self,
        *,
        env: dict[str, str] | None = None,
        folder: Path | None = None,
        command: Sequence[str | Path] = (PROGRAM, "run"),
        **settings: object,
    ) -> None:
        inherited = {
            name: value for name, value in os.environ.items() if not name.startswith("SESSION_WORKER_")
        }
        given = {f"SESSION_WORKER_{name.upper()}": str(value) for name, value in settings.items()}
        self.logs: list[dict[str, Any]] = []
        self.output: list[str] = []
        self._news = threading.Condition()
        self._ended = False
        self._process = subprocess.Popen(
            command,
            env=inherited | given | (env or {}),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, name="worker's log", daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """None while it runs; minus the signal's number if one killed it."""
        return self._process.poll()

    def wait_up(self, timeout: float = 30.0) -> dict[str, Any]:
        """Wait until its consumer is registered."""
        return self.wait_for("worker up", timeout)

    def wait_for(self, event: str, timeout: float = 30.0, count: int = 1) -> dict[str, Any]:
        """The `count`th log line with this event, now or within `timeout` seconds.

        Raises:
            AssertionError: it did not come, or the worker ended before; with the end of what it logged.
        """
        return self.wait_until(lambda line: line.get("event") == event, f"{event!r}", timeout, count)

    def wait_until(
        self, wanted: Callable[[dict[str, Any]], bool], what: str, timeout: float = 30.0, count: int = 1
    ) -> dict[str, Any]:
        """`wait_for` with a condition of your own; `what` names it in the error."""
        end = time.monotonic() + timeout
        with self._news:
            while True:
                found = [line for line in self.logs if wanted(line)]
                if len(found) >= count:
                    return found[count - 1]
                left = end - time.monotonic()
                if self._ended or left <= 0:
                    why = f"ended with {self._process.poll()}" if self._ended else f"logged for {timeout:g} s"
                    raise AssertionError(f"the worker {why} without {what}:\n{''.join(self.output[-30:])}")
                self._news.wait(left)

    def poll_end(self, timeout: float) -> int | None:
        """Its exit code once it has ended, or None after `timeout` seconds."""
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            return None

    def send_signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL, and wait for its end."""
        self._process.kill()
        self.wait()

    def terminate(self) -> None:
        """SIGTERM; `wait` for the end."""
        self._process.terminate()

    def wait(self, timeout: float = 60.0) -> int:
        """Its exit code, within `timeout` seconds."""
        code = self._process.wait(timeout)
        self._reader.join(timeout)
        return code

    def close(self) -> None:
        """Make sure that it is gone."""
        if self._process.poll() is None:
            self._process.kill()
        self.wait()
        if self._process.stderr is not None:
            self._process.stderr.close()

    def _read(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            with self._news:
                self.output.append(line)
                if line.startswith("{"):
                    self.logs.append(json.loads(line))
                self._news.notify_all()
        with self._news:
            self._ended = True
            self._news.notify_all()
