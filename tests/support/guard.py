"""Nothing that a test run has begun outlives it, however it ends: no process, no folder."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Self

_MARK = "TESTED_IN"

# Waits for the end of its standard input: the kernel closes it when the run is gone, be it by SIGKILL. The
# private servers have guards of their own, which end them once the processes that began them are gone.
_PROGRAM = """
import os, pathlib, shutil, signal, sys, time
for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
    signal.signal(number, signal.SIG_IGN)
mark, folder = sys.argv[1].encode(), pathlib.Path(sys.argv[2])
sys.stdin.read()
end = time.monotonic() + 20

def marked():
    for process in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            if mark in (process / "environ").read_bytes().split(b"\\0"):
                yield int(process.name)
        except OSError:
            pass

while (left := list(marked())) and time.monotonic() < end:
    for pid in left:
        try:
            os.kill(pid, signal.SIGKILL)
        except OSError:
            pass
    time.sleep(0.05)
while any(folder.glob("session-worker-*/data")) and time.monotonic() < end:
    time.sleep(0.05)
shutil.rmtree(folder, ignore_errors=True)
"""


def heed_signals() -> None:
    """Have SIGINT heard, and SIGHUP by what is started, though both were ignored: `nohup make test &`."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, lambda *_: None)


class Guard:
    """While it is entered, temporary files go into a folder of the run, and what is started bears its mark.
    SIGTERM is then a KeyboardInterrupt."""

    def __enter__(self) -> Self:
        self.folder = Path(tempfile.mkdtemp(prefix="tests-"))
        self.folder.chmod(0o711)  # the private servers' users pass through
        mark = f"{self.folder.name}-{secrets.token_hex(8)}"
        self._process = subprocess.Popen(
            [sys.executable, "-IS", "-c", _PROGRAM, f"{_MARK}={mark}", self.folder],
            stdin=subprocess.PIPE,
            start_new_session=True,
            cwd="/",
        )
        # What pytest keeps for who looks into a failure stays where it is looked for.
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())
        os.environ |= {_MARK: mark, "TMPDIR": str(self.folder)}
        tempfile.tempdir = None
        heed_signals()
        signal.signal(signal.SIGTERM, self._on_sigterm)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._strike()
        self._process.wait()

    def _on_sigterm(self, *_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        self._strike()
        raise KeyboardInterrupt

    def _strike(self) -> None:
        """End what the run has begun, at once."""
        assert self._process.stdin is not None
        self._process.stdin.close()
