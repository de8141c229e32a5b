"""``demo``: the promise shown on real parts, every count checked."""

from __future__ import annotations

import asyncio
import secrets
import shutil
import signal
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from worker.cli.demo import show
from worker.cli.demo.performance import perform
from worker.cli.demo.plan import Plan
from worker.cli.demo.stage import Stage, WorkerProcess, remove_queues
from worker.sandbox import RabbitMQ

if TYPE_CHECKING:
    from types import FrameType


def demo(count: int, *, amqp_url: str | None, ledger_url: str | None) -> int:
    """Play, show, and say whether every count is what it must be: 0, else 1."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _stop)
    folder = Path(tempfile.mkdtemp(prefix="session-worker-demo-"))
    show.title(count)
    try:
        proven = _play(Plan(count), folder, amqp_url, ledger_url)
    except (KeyboardInterrupt, SystemExit):
        shutil.rmtree(folder, ignore_errors=True)
        raise
    if proven:
        shutil.rmtree(folder, ignore_errors=True)
    else:
        show.not_proven(folder)
    return 0 if proven else 1


def _stop(number: int, _: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _play(plan: Plan, folder: Path, amqp_url: str | None, ledger_url: str | None) -> bool:
    with ExitStack() as stack:
        prefix = "session"
        if amqp_url is None:
            with show.step("a private RabbitMQ"):
                amqp_url = stack.enter_context(RabbitMQ()).url
        else:
            prefix = f"session-demo-{secrets.token_hex(4)}"
            stack.callback(lambda stage: asyncio.run(remove_queues(stage)), Stage(amqp_url, "", prefix))
        stage = Stage(amqp_url, ledger_url or f"sqlite:///{folder / 'ledger.db'}", prefix)
        with show.step("a worker process and its ledger"):
            worker = stack.enter_context(WorkerProcess(folder / "worker.log", stage.settings()))
            asyncio.run(worker.up())
        return asyncio.run(perform(plan, stage, worker))
