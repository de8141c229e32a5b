"""``run --processes N``: worker processes, each replaced when it dies, and one place that answers for all.

All load their program at once, but the first one begins alone: so an error in the settings is told once, and
queues and schema are there before the others need them. Settings go to a process by a socket pair, never by
its arguments or its environment, which others can read. The pair also tells a process that its supervisor is
gone.
"""

from __future__ import annotations

import asyncio
import json
import random
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from session_worker.runtime import ops
from session_worker.runtime.health import Board, Report
from session_worker.runtime.stopping import Stop
from session_worker.settings import unknown_variables
from session_worker.telemetry import log as telemetry_log
from session_worker.telemetry.log import say

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from session_worker.settings import Settings

STEADY_SECONDS = 30.0
"""A process that lived so long did not die of its start: it is replaced at once."""
LONGEST_PAUSE = 30.0
LAST_SECONDS = 5.0
"""How long the supervisor waits for its processes beyond the time that they give themselves."""
REPORT_BYTES = 1_048_576
TOLD = (0, -signal.SIGTERM)
"""Exit codes of a process that was told to stop. It has the second one if it could not listen yet."""


class WorkerProcess:
    """One worker process, and our end of its pipe."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self._process = process
        self._reader = reader
        self._writer = writer
        self._knows = False

    @classmethod
    async def start(cls) -> WorkerProcess:
        """Start a process, which loads its program and waits for its settings.

        Raises:
            OSError: the operating system does not start it.
        """
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                process = await asyncio.create_subprocess_exec(
                    *command("session_worker.cli.supervised_worker", str(theirs.fileno())),
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    start_new_session=True,  # Ctrl-C does not reach it
                )
        except BaseException:
            ours.close()
            raise
        reader, writer = await asyncio.open_connection(sock=ours, limit=REPORT_BYTES)
        return cls(process, reader, writer)

    def hand_over(self, settings: Settings, *, restarted: bool) -> None:
        """Let it begin with these settings. For ``restarted``, see ``Worker.run``."""
        given = {"settings": settings.hand_over(), "path": sys.path, "restarted": restarted}
        self._writer.write(json.dumps(given).encode() + b"\n")
        self._knows = True

    async def listen(self, put: Callable[[Report], None]) -> int:
        """Pass its reports on until it ends; return its exit code, or minus the signal that killed it."""
        ended = asyncio.create_task(self._ended(), name="process end")
        with suppress(OSError):
            while (line := await self._reader.readline()).endswith(b"\n"):  # it may die in mid-report
                put(Report.decode(line))
        return await ended

    async def _ended(self) -> int:
        # A process that a handler forked may keep its end of the pipe open.
        code = await self._process.wait()
        self._writer.transport.abort()
        return code

    def ask(self) -> None:
        """Ask for a report, unless it has not read the last question yet."""
        if self._knows and self._writer.transport.get_write_buffer_size() == 0:
            self._writer.write(b"report\n")

    def release(self) -> None:
        """Have it stop in order; after this it cannot be asked any more."""
        self._knows = False
        self._writer.write_eof()

    def kill(self) -> None:
        with suppress(ProcessLookupError):  # it has ended
            self._process.kill()


def command(module: str, *arguments: str) -> list[str]:
    """The command that runs a module of ours in a process of its own."""
    # Without -P a folder named `worker` where this process was started would be taken for ours.
    safe = [] if sys.path[0] == str(Path.cwd()) else ["-P"]
    return [sys.executable, *safe, "-m", module, *arguments]


class Supervisor:
    """Keeps the processes and has them report to ``board``. Made in the event loop."""

    def __init__(self, settings: Settings, board: Board) -> None:
        self._settings = settings
        self._board = board
        self._stop = Stop(settings.shutdown_grace + LAST_SECONDS, self._kill)
        self._processes: dict[int, WorkerProcess] = {}
        self._first_is_up = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._code = 0

    async def run(self) -> int:
        """Keep the processes until it is time to stop or the first one cannot start; return the exit code."""
        self._stop.listen()
        self._board.ask = self._ask
        places = range(1, self._settings.processes + 1)
        keeping = [asyncio.create_task(self._keep(place), name=f"process {place}") for place in places]
        asked = asyncio.create_task(self._stop.asked.wait(), name="stop watcher")
        await asyncio.wait({asked, *keeping}, return_when=asyncio.FIRST_COMPLETED)
        self._stop.ask()  # a defect of ours ends all as well
        self._stop.asked.set()
        self._board.stop()
        self._first_is_up.set()
        for process in self._processes.values():
            process.release()
        await asyncio.gather(*keeping)
        return self._code

    async def _keep(self, place: int) -> None:
        """Keep a process in this place until it is time to stop."""
        restarted, in_vain = False, 0
        while not self._stop.asked.is_set():
            began = time.monotonic()
            code = await self._run_one(place, restarted=restarted)
            if self._stop.asked.is_set():
                self._code = self._code or int(code not in TOLD)
            elif not self._first_is_up.is_set():
                if code < 0:  # else it has said why
                    say("error", "process was killed before it was up", process=place, signal=-code)
                self._code = code if code >= 0 else 1
                self._stop.ask()
            else:
                in_vain = 0 if time.monotonic() - began > STEADY_SECONDS else in_vain + 1
                pause = random.uniform(0.5, 1) * min(2.0**in_vain, LONGEST_PAUSE) if in_vain > 1 else 0.0  # noqa: S311
                self._board.gone(place, f"ended with exit code {code}")
                say("error", "process ended", process=place, exit_code=code, next_in=round(pause, 2))
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._stop.asked.wait(), pause)
                restarted = True

    async def _run_one(self, place: int, *, restarted: bool) -> int:
        """Start a process and stay with it to its end; return its exit code."""
        try:
            process = await WorkerProcess.start()
        except OSError as error:
            say("error", "process not started", process=place, reason=str(error))
            return 1
        self._processes[place] = process
        if place > 1:
            await self._first_is_up.wait()
        if self._stop.asked.is_set():
            process.release()
        else:
            process.hand_over(self._settings, restarted=restarted)

        def put(report: Report) -> None:
            self._board.put(place, report)
            if report.started:
                self._first_is_up.set()

        try:
            return await process.listen(put)
        finally:
            del self._processes[place]

    def _ask(self) -> None:
        def ask_all() -> None:
            for process in self._processes.values():
                process.ask()

        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(ask_all)

    def _kill(self) -> None:
        for process in tuple(self._processes.values()):  # this may run in another thread
            process.kill()


def run(settings: Settings) -> int:
    """Run ``settings.processes`` workers until told to stop; the exit code."""
    return supervise(settings, settings.processes, lambda board: Supervisor(settings, board).run())


def supervise(settings: Settings, places: int, keep: Callable[[Board], Coroutine[Any, Any, int]]) -> int:
    """Have ``keep`` look after the processes in these places, and answer for them at the ops port.

    Returns:
        The exit code, which is ``keep``'s.

    Raises:
        OpsPortError: the address of the ops port cannot be had.
    """
    telemetry_log.configure(settings.log_level)
    for name, nearest in unknown_variables().items():
        say("warning", "unknown setting", variable=name, nearest=nearest)
    board = Board(places)

    async def kept() -> int:
        return await keep(board)  # made in the event loop

    with ops.serving(settings.ops_host, settings.ops_port, board):
        return asyncio.run(kept())
