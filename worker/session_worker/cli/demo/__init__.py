"""``demo``: the promise shown on real parts, every count checked."""

from __future__ import annotations

import asyncio
import secrets
import shutil
import tempfile
from contextlib import ExitStack
from pathlib import Path

from session_worker.cli import command_settings, interrupts
from session_worker.cli.demo import show
from session_worker.cli.demo.performance import perform
from session_worker.cli.demo.plan import Plan
from session_worker.cli.demo.stage import Stage, WorkerProcess, knock, remove_queues
from session_worker.cli.problems import Failure
from session_worker.loop import PlainLoop
from session_worker.sandbox import RabbitMQ
from session_worker.settings.default_ledger import sqlite_url


def demo(count: int, *, amqp_url: str | None, ledger_url: str | None) -> int:
    """Play the demo; return 0 if every count is what it must be, else 1.

    Raises:
        Failure: it could not be played. If the message names the worker's log, that file is kept.
    """
    interrupts.listen()
    with asyncio.Runner(loop_factory=PlainLoop) as runner:
        runner.get_loop()  # make the loop now: an interrupt while it is made later would leave half of it
        folder = Path(tempfile.mkdtemp(prefix="session-worker-demo-"))
        try:
            proven = _play(runner, Plan(count), folder, amqp_url, ledger_url)
        except Failure:
            raise
        except BaseException as error:
            shutil.rmtree(folder, ignore_errors=True)
            if isinstance(error, KeyboardInterrupt):
                show.interrupted()
            raise
    if proven:
        shutil.rmtree(folder, ignore_errors=True)
    else:
        show.not_proven(folder)
    return 0 if proven else 1


def _play(
    runner: asyncio.Runner, plan: Plan, folder: Path, amqp_url: str | None, ledger_url: str | None
) -> bool:
    show.title(plan.count)
    with ExitStack() as stack:
        prefix = "session"
        if amqp_url is None:
            with show.step("a private RabbitMQ", "it takes about ten seconds"):
                amqp_url = stack.enter_context(RabbitMQ()).url
        else:
            amqp_url = command_settings.load_only(amqp_url=amqp_url).amqp_urls[0]
            with show.step("the broker that you named"):
                interrupts.run(runner, knock(amqp_url))
            prefix = f"session-demo-{secrets.token_hex(4)}"
        stage = Stage(amqp_url, ledger_url or sqlite_url(folder / "ledger.db"), prefix)
        if prefix != "session":
            stack.callback(lambda: runner.run(remove_queues(stage)))
        with show.step("a worker process and its ledger"):
            worker = stack.enter_context(WorkerProcess(folder / "worker.log", stage.settings()))
            interrupts.run(runner, worker.up())
        return interrupts.run(runner, perform(plan, stage, worker))
