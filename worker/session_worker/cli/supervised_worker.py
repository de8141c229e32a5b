"""A worker process that a supervisor started: ``python -m session_worker.cli.supervised_worker FD``.

FD is one end of a socket pair. The first line on it brings the settings; every further one asks for a report;
reports go back. When the supervisor is gone, or closes its end, the process stops in order.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from session_worker.cli import leave_when_told, streams

if TYPE_CHECKING:
    from session_worker.runtime.health import Report, Reporter
    from session_worker.runtime.stopping import Stop


class Pipe:
    """This process's end of the socket pair."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._unsent = b""
        self._stop: Stop | None = None

    def first_line(self) -> bytes:
        """What the supervisor sends first; nothing when there is no supervisor any more."""
        received = b""
        while b"\n" not in received:
            if not (data := self._end.recv(65_536)):
                return b""
            received += data
        return received.partition(b"\n")[0]  # it may have asked for a report already

    def put(self, report: Report) -> None:
        """Send a report, unless the supervisor does not read; never wait."""
        with suppress(BlockingIOError, ConnectionError):
            self._flush()
            self._unsent = report.encode()
            self._flush()

    def listen(self, reporter: Reporter) -> None:
        """Listen to the supervisor in a thread, which hears it even while a handler blocks the loop."""
        threading.Thread(target=self._listen, args=[reporter], name="supervisor", daemon=True).start()

    def obey(self, stop: Stop) -> None:
        self._stop = stop

    def _flush(self) -> None:
        while self._unsent:
            self._unsent = self._unsent[self._end.send(self._unsent, socket.MSG_DONTWAIT) :]

    def _listen(self, reporter: Reporter) -> None:
        with suppress(ConnectionError):
            while self._end.recv(4096):
                reporter.ask()
        if self._stop is None:  # nothing was begun
            os._exit(0)
        self._stop.ask()


def main() -> None:
    """Run the worker. Exit codes and errors are those of ``session-worker run``."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is handled by the supervisor
    leave_when_told(signal.SIGTERM)
    streams.prepare()
    end = socket.socket(fileno=int(sys.argv[1]))
    end.set_inheritable(False)
    try:
        code = _run(Pipe(end))
    except Exception as error:  # noqa: BLE001 - as in session_worker.cli.main
        from session_worker.cli.problems import report

        code = report(error)
    from session_worker.runtime.stopping import exit_soon

    exit_soon(code)
    sys.exit(code)


def _run(pipe: Pipe) -> int:
    from session_worker.runtime.health import Reporter
    from session_worker.runtime.process import run_loop
    from session_worker.settings import Settings
    from session_worker.telemetry import log

    line = pipe.first_line()
    if not line:
        return 0
    reporter = Reporter(pipe.put)
    pipe.listen(reporter)
    given = json.loads(line)
    sys.path[:] = given["path"]
    sys.path.insert(0, str(Path.cwd()))
    settings = Settings.take_over(given["settings"])
    log.configure(settings.log_level)
    return run_loop(settings, reporter, pipe.obey, restarted=given["restarted"])


if __name__ == "__main__":
    main()
