"""``--reload``: a worker process that is replaced by a new one whenever its code changes. For developing.

No module is ever loaded anew in place. The old process finishes what it runs; what arrives meanwhile waits at
the broker, also while the new code cannot be loaded.
"""

from __future__ import annotations

import asyncio
import importlib.util
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from session_client.net.diagnosis import DiagnosedError
from session_worker.runtime.stopping import Stop
from session_worker.runtime.supervisor import LAST_SECONDS, TOLD, WorkerProcess, supervise
from session_worker.telemetry.log import say

if TYPE_CHECKING:
    from collections.abc import Callable

    from session_worker.runtime.health import Board, Report
    from session_worker.settings import Settings

SHOWN = 5
"""Files that the line of a change names."""


class ReloadError(DiagnosedError):
    """Changes of the code cannot be watched."""


def run(settings: Settings, see: Callable[[Report], object] = lambda _: None) -> int:
    """Run a worker anew with each change of a ``.py`` file, until told to stop; return the exit code.

    ``see`` gets every report.

    Raises:
        ReloadError: changes cannot be watched.
        OpsPortError: the address of the ops port cannot be had.
    """
    check(settings)
    folders = _folders(settings.app or settings.handler)
    return supervise(settings, 1, lambda board: _Reloader(settings, board, folders, see).run())


def check(settings: Settings) -> None:
    """Check that a worker with these settings can be run anew with each change.

    Raises:
        ReloadError: it cannot.
    """
    if importlib.util.find_spec("watchfiles") is None:
        raise ReloadError("reload: watchfiles is not installed", "install it: pip install 'watchfiles>=1,<2'")
    if settings.processes > 1:
        raise ReloadError(
            f"reload: there is one process, not {settings.processes}", "leave out processes, or reload"
        )


def _folders(code: str | None) -> list[Path]:
    """This folder, and that of the package (or the module) with the user's code if it is another one."""
    here = Path.cwd()
    module = code and code.partition(":")[0].partition(".")[0]
    spec = importlib.util.find_spec(module) if module else None  # imports nothing
    if not spec or not spec.origin:
        return [here]
    there = Path(spec.origin).resolve().parent
    return [here] if there.is_relative_to(here.resolve()) else [here, there]


class _Reloader:
    """Keeps one process, which reports to ``board``. Made in the event loop."""

    def __init__(
        self, settings: Settings, board: Board, folders: list[Path], see: Callable[[Report], object]
    ) -> None:
        self._settings = settings
        self._board = board
        self._folders = folders
        self._see = see
        self._stop = Stop(settings.shutdown_grace + LAST_SECONDS, self._kill)
        self._changed = asyncio.Event()
        self._process: WorkerProcess | None = None
        self._was_up = False
        self._loop = asyncio.get_running_loop()

    async def run(self) -> int:
        """Keep the process until it is time to stop; return the exit code."""
        self._stop.listen()
        self._board.ask = self._ask
        folders = ", ".join(map(str, self._folders))
        say("warning", "the worker starts anew with each change: for developing only", folders=folders)
        watching = asyncio.create_task(self._watch(), name="watcher of the code")
        keeping = asyncio.create_task(self._keep(), name="keeper of the process")
        await asyncio.wait({watching, keeping}, return_when=asyncio.FIRST_COMPLETED)
        self._stop.ask()  # the code can no longer be watched, or there is a defect of ours
        self._stop.asked.set()
        self._board.stop()
        self._changed.set()
        code = await keeping
        await watching
        return code

    async def _watch(self) -> None:
        """Watch the code until it is time to stop."""
        from watchfiles import PythonFilter, awatch

        try:
            async for changes in awatch(
                *self._folders,
                watch_filter=PythonFilter(),
                stop_event=self._stop.asked,
                ignore_permission_denied=True,
            ):
                files = sorted({Path(file).name for _, file in changes})
                say("info", "code changed", files=", ".join(files[:SHOWN]))
                self._changed.set()
        except (OSError, RuntimeError) as error:  # watchfiles raises either
            raise ReloadError(
                f"reload: the code cannot be watched ({error})", "run the worker without reload"
            ) from error

    async def _keep(self) -> int:
        while True:
            self._changed.clear()
            code = await self._run_one()
            if self._stop.asked.is_set():
                return int(code not in TOLD)
            self._board.gone(1, f"ended with exit code {code}")
            if not self._changed.is_set():
                say("error", "process ended, waiting for a change of the code", exit_code=code)
                await self._changed.wait()
            if self._stop.asked.is_set():
                return 0

    async def _run_one(self) -> int:
        """Run a process until it ends by itself, the code changes or it is time to stop; return its exit
        code."""
        try:
            self._process = process = await WorkerProcess.start()
        except OSError as error:
            say("error", "process not started", reason=str(error))
            return 1
        process.hand_over(self._settings, restarted=self._was_up)
        listening = asyncio.create_task(process.listen(self._put), name="listener to the process")
        changed = asyncio.create_task(self._changed.wait(), name="waiter for a change")
        await asyncio.wait({listening, changed}, return_when=asyncio.FIRST_COMPLETED)
        changed.cancel()
        process.release()
        try:
            return await listening
        finally:
            self._process = None

    def _put(self, report: Report) -> None:
        self._was_up = self._was_up or report.started
        self._board.put(1, report)
        self._see(report)

    def _ask(self) -> None:
        def ask() -> None:
            if self._process is not None:
                self._process.ask()

        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(ask)

    def _kill(self) -> None:
        if (process := self._process) is not None:  # this may run in another thread
            process.kill()
