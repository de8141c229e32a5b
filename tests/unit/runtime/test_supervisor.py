"""The pipe between the supervisor and a process: settings, reports and the end, whatever that is like."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from session_worker.cli.supervised_worker import Pipe
from session_worker.runtime import supervisor
from session_worker.runtime.health import Report

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

REPORT = Report(1, "worker", started=True, checks={}, metrics={})


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Lets this code be what a process runs; `end` is its end of the pipe."""

    def program(code: str) -> None:
        start = f"import os, signal, socket, sys; end = socket.socket(fileno=int(sys.argv[1])); {code}"
        monkeypatch.setattr(supervisor, "command", lambda _, number: [sys.executable, "-c", start, number])

    return program


async def heard(process: supervisor.WorkerProcess) -> tuple[list[Report], int]:
    reports: list[Report] = []
    async with asyncio.timeout(10):
        code = await process.listen(reports.append)
    return reports, code


async def test_the_end_is_seen_although_what_the_process_forked_holds_the_pipe(
    runs: Callable[[str], None], tmp_path: Path
) -> None:
    """As a handler's pool of processes does when its worker is killed."""
    note = tmp_path / "pid"
    runs(f"pid = os.fork(); pid or signal.pause(); open({str(note)!r}, 'w').write(str(pid)); os._exit(7)")
    process = await supervisor.WorkerProcess.start()
    try:
        assert await heard(process) == ([], 7)
    finally:
        with suppress(OSError):
            os.kill(int(note.read_text()), signal.SIGKILL)


async def test_half_a_report_is_none(runs: Callable[[str], None]) -> None:
    """A process may be killed while it sends one; what it said before counts."""
    runs(f"end.sendall({REPORT.encode()!r} + {REPORT.encode()[:-9]!r})")
    assert await heard(await supervisor.WorkerProcess.start()) == ([REPORT], 0)


async def test_a_process_that_was_told_to_stop_is_not_asked_any_more(runs: Callable[[str], None]) -> None:
    """Its pipe takes nothing more."""
    runs("os.read(end.fileno(), 9)")
    process = await supervisor.WorkerProcess.start()
    process._knows = True
    process.release()
    process.ask()
    assert await heard(process) == ([], 0)


async def test_killing_what_has_ended_is_no_error(runs: Callable[[str], None]) -> None:
    """Else the deadline that ends the supervisor would not."""
    runs("")
    process = await supervisor.WorkerProcess.start()
    await heard(process)
    process.kill()


def test_settings_are_read_from_the_pipe_although_a_report_is_asked_for_already() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(json.dumps({"a": 1}).encode() + b"\nreport\nrep")
        assert json.loads(Pipe(theirs).first_line()) == {"a": 1}
        ours.sendall(b'{"cut o')
        ours.close()
        assert Pipe(theirs).first_line() == b"", "there is no supervisor any more"


def test_a_supervisor_that_does_not_read_keeps_nobody_waiting() -> None:
    """Reports that find no room are left out; what is sent is whole all the same."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        pipe = Pipe(theirs)
        for number in range(5000):
            pipe.put(replace(REPORT, pid=number))
        received = b""
        while b'"pid": 5001,' not in received:
            received += ours.recv(1 << 20)
            pipe.put(replace(REPORT, pid=5001))
        pids = [Report.decode(line).pid for line in received.splitlines()]
        assert pids == sorted(pids)
        assert len(pids) < 5000
