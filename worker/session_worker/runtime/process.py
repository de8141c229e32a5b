"""A worker as a process of its own: its event loop, its signals, its ops port."""

from __future__ import annotations

import asyncio
import gc
import threading
from typing import TYPE_CHECKING, Any

from session_worker.ledger.protocol import LedgerError
from session_worker.loop import new_event_loop
from session_worker.operations.errors import AppError
from session_worker.runtime import lifespan, ops
from session_worker.runtime.health import Board, Reporter
from session_worker.runtime.stopping import StartError, Stop, exit_now
from session_worker.runtime.worker import Worker
from session_worker.settings import unknown_variables
from session_worker.telemetry import capture
from session_worker.telemetry import log as telemetry_log
from session_worker.telemetry.log import say

if TYPE_CHECKING:
    from collections.abc import Callable

    from session_worker.runtime.health import Report
    from session_worker.settings import Settings

ran = threading.Event()
"""Whether a worker has run in this process."""
COLLECT_AFTER = 50_000
"""How many objects must have been made and not freed before cycles are searched for."""


def run(settings: Settings, see: Callable[[Report], object] = lambda _: None) -> int:
    """Run a worker in this process, with an ops port if the settings name one; return the exit code.

    ``see`` gets every report.

    Raises:
        StartError: the worker cannot start.
        OpsPortError: the address of the ops port cannot be had.
    """
    telemetry_log.configure(settings.log_level)
    for name, nearest in unknown_variables().items():
        say("warning", "unknown setting", variable=name, nearest=nearest)
    board = Board(1)

    def tell(report: Report) -> None:
        board.put(1, report)
        see(report)

    reporter = Reporter(tell)
    board.ask = reporter.ask
    with ops.serving(settings.ops_host, settings.ops_port, board):
        return run_loop(settings, reporter, lambda _: None)


def run_loop(
    settings: Settings, reporter: Reporter, obey: Callable[[Stop], None], *, restarted: bool = False
) -> int:
    """Run a worker on the fastest event loop there is; return the exit code. What handlers print meanwhile
    goes to the log.

    ``obey`` gets the order to stop, which it may give. For ``restarted``, see ``Worker.run``.

    Raises:
        StartError: the worker cannot start.
    """
    ran.set()
    with capture.output(), asyncio.Runner(loop_factory=new_event_loop) as runner:
        try:
            code = runner.run(serve(settings, reporter, obey, restarted=restarted))
        except StartError:
            raise
        except BaseException as error:  # noqa: BLE001
            # A task of a handler ended the loop (sys.exit, loop.stop). The runner would now cancel all that
            # runs, and it would be handed back, time and again. So this is treated as the crash that it is.
            say("error", "event loop ended", exc_info=error)
            exit_now("the event loop ended without an order to stop")
        if runner.run(_tasks_remain()):
            # Their requests were handed back, and everything is closed: to wait for them might take for ever.
            exit_now("some handlers do not end", code)
    return code


async def serve(
    settings: Settings, reporter: Reporter, obey: Callable[[Stop], None], *, restarted: bool
) -> int:
    """See ``run_loop``."""
    asyncio.get_running_loop().set_exception_handler(_log_stray_error)
    stop = Stop(settings.shutdown_grace)
    try:
        worker = Worker(settings, stop.asked, up=reporter.ask)
    except (AppError, LedgerError) as error:
        raise StartError(error.diagnosis) from error
    telemetry_log.identify(worker.worker_id)
    stop.listen()
    obey(stop)
    _relax_collector()
    reporting = asyncio.create_task(reporter.run(worker.report), name="reporter")
    try:
        await worker.run(restarted=restarted)
    finally:
        reporting.cancel()
        await asyncio.wait({reporting})
    return 0


def _relax_collector() -> None:
    """Have Python search for cycles of objects less often, and not among those built until now.

    What a request needs is freed by its reference counts. By default the search starts after a few requests,
    and takes an eighth of their time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER)


async def _tasks_remain() -> bool:
    """Cancel the tasks that are left; whether some go on nevertheless. A lifespan that was not left, for the
    sake of handlers that still run, is let alone."""
    left = asyncio.all_tasks() - {asyncio.current_task()}
    lifespans = {task for task in left if task.get_name() == lifespan.TASK}
    left -= lifespans
    for task in left:
        task.cancel()
    return bool(lifespans) or (bool(left) and bool((await asyncio.wait(left, timeout=1))[1]))


def _log_stray_error(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    say("error", "unexpected", what=context.get("message"), exc_info=context.get("exception"))
