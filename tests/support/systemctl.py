"""``systemctl start|stop|restart session-worker`` for who follows docs/operations.md where no systemd is.

It does to a real worker what systemd does: the settings are those of ``worker.env`` in this folder, a stop is
SIGTERM and waits for the end. A start is over when the worker consumes, so that the page's next command finds
one. Its log is ``worker.log``.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

from tests.support.waiting import soon
from tests.support.worker_process import PROGRAM

SETTINGS, LOG, PID = Path("worker.env"), Path("worker.log"), Path("worker.pid")


def start() -> None:
    given = dict(word.split("=", 1) for word in shlex.split(SETTINGS.read_text()))
    inherited = {name: text for name, text in os.environ.items() if not name.startswith("SESSION_WORKER_")}
    LOG.touch()
    before = LOG.read_text().count('"worker up"')
    with LOG.open("a") as log:
        worker = subprocess.Popen([PROGRAM, "run"], env=inherited | given, stdout=log, stderr=log)
    PID.write_text(str(worker.pid))
    soon(lambda: LOG.read_text().count('"worker up"') > before or worker.poll() is not None, 60)
    assert worker.poll() is None, f"the worker ended with {worker.returncode}:\n{LOG.read_text()[-2000:]}"


def stop() -> None:
    if not PID.exists():
        return
    pid = int(PID.read_text())
    os.kill(pid, signal.SIGTERM)
    soon(lambda: _over(pid), 60)
    PID.unlink()


def _over(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


if __name__ == "__main__":
    verb, unit = sys.argv[1:]
    assert unit == "session-worker"
    if verb in {"stop", "restart"}:
        stop()
    if verb in {"start", "restart"}:
        start()
