"""Where the demo plays: a broker, a ledger, and a worker process; all of it gone afterwards."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import aio_pika
import aio_pika.exceptions

from session_contracts import Names
from session_worker.broker.connection import Connection
from session_worker.broker.topology import Topology
from session_worker.cli import terminal
from session_worker.cli.problems import Failure
from session_worker.runtime.supervisor import command

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

START_SECONDS = 30.0
STOP_SECONDS = 30.0
POLL_SECONDS = 0.05
RETRY_DELAYS = (1,)
"""Seconds; one short delay, so that nobody has to wait for what fails twice."""
UP = "worker up"
"""What the worker logs when its consumer is registered."""


@dataclass(frozen=True, slots=True)
class Stage:
    """The broker, the ledger, and the prefix of the demo's names."""

    amqp_url: str
    ledger_url: str
    prefix: str

    def settings(self) -> dict[str, str]:
        """For the worker, by environment."""
        return {
            "AMQP_URL": self.amqp_url,
            "LEDGER_URL": self.ledger_url,
            "PREFIX": self.prefix,
            "HANDLER": "session_worker.cli.demo.handler:handle",
            "OPERATIONS": "create_session",  # all that is asked for, and all that must be removed
            "RETRY_DELAYS": ",".join(map(str, RETRY_DELAYS)),
            "MIGRATE": "true",
        }


class WorkerProcess:
    """``session-worker run`` in a process and a session of its own, so that Ctrl-C reaches only the demo."""

    def __init__(self, log: Path, settings: dict[str, str]) -> None:
        self.log = log
        self._environment = {
            name: value for name, value in os.environ.items() if not name.startswith("SESSION_WORKER_")
        } | {f"SESSION_WORKER_{name}": value for name, value in settings.items()}

    def __enter__(self) -> Self:
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(  # noqa: S603 - our own program
                command("session_worker.cli", "run"),
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            late = f"The worker did not stop within {STOP_SECONDS:.0f} s"
            raise Failure(f"{late}; its log: {self.log}") from None
        finally:
            self._process.kill()
            self._process.wait()

    async def up(self) -> None:
        """Wait until it consumes.

        Raises:
            Failure: it ended, or took too long.
        """
        try:
            async with asyncio.timeout(START_SECONDS):
                while UP not in self.log.read_text(errors="replace"):
                    self._check()
                    await asyncio.sleep(POLL_SECONDS)
        except TimeoutError:
            raise Failure(
                f"The worker was not up within {START_SECONDS:.0f} s; its log: {self.log}"
            ) from None

    async def died(self) -> None:
        """Return only by raising Failure, when the process has ended."""
        while True:
            self._check()
            await asyncio.sleep(POLL_SECONDS)

    def _check(self) -> None:
        if self._process.poll() is not None:
            *_, last = self.log.read_text(errors="replace").splitlines() or ["it said nothing"]
            why = last.removeprefix("session-worker: ")
            code = self._process.returncode
            raise Failure(f"The worker ended with exit code {code}: {why} (log: {self.log})")


async def knock(amqp_url: str) -> None:
    """See whether the broker can be used.

    Raises:
        ConnectError: it cannot; a sentence.
    """
    connection = await Connection.open([amqp_url], "demo")
    await connection.close()


async def remove_queues(stage: Stage) -> None:
    """Take the demo's exchange and queues off a broker that is not the demo's own."""
    names = Names(stage.prefix)
    topology = Topology.of(names, RETRY_DELAYS)
    try:
        async with await aio_pika.connect(stage.amqp_url, timeout=START_SECONDS) as connection:
            channel = await connection.channel()
            for queue in (*(queue.name for queue in topology.queues), names.ledger):
                await channel.queue_delete(queue)
            await channel.exchange_delete(topology.exchange)
    except (aio_pika.exceptions.AMQPError, OSError) as error:
        left = f"The demo's queues, {stage.prefix}.*, may be left at the broker"
        terminal.notices().print(f"{left}: {type(error).__name__}.")
