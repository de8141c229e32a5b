"""``dev``: a worker, a broker and a ledger for whoever writes a handler or a requester."""

from __future__ import annotations

import os
import shlex
import sys
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from rich.text import Text

from session_worker import settings
from session_worker.cli import interrupts, program_name, streams, terminal
from session_worker.cli.demo import show
from session_worker.operations import loading
from session_worker.runtime import process
from session_worker.sandbox import RabbitMQ
from session_worker.settings.default_ledger import sqlite_url
from session_worker.telemetry import capture, log

if TYPE_CHECKING:
    from session_worker.runtime.health import Report
    from session_worker.settings import Settings

OWN = ("SESSION_WORKER_AMQP_URL", "SESSION_WORKER_LEDGER_URL")


def dev(handler: str | None) -> int:
    """Run the worker until it is told to stop, and return its exit code. Nothing is left behind.

    Raises:
        AppError, SandboxError: the handler or the broker cannot be had.
    """
    interrupts.listen()
    sys.path.insert(0, str(Path.cwd()))
    if ignored := [name for name in OWN if name in os.environ]:
        terminal.notices().print(f"Its own are used in place of {' and '.join(ignored)}.", soft_wrap=True)
    # Check settings and handler first: starting the broker takes about ten seconds.
    loaded = _load(handler, "amqp://127.0.0.1/", "sqlite:///ledger.db")
    log.configure(loaded.log_level)
    with capture.output():  # as in the worker, so that logging which the module sets up adds no lines
        loading.load(hook=loaded.handler)
    with ExitStack() as stack:
        with show.step("a private RabbitMQ", "it takes about ten seconds"):
            node = stack.enter_context(RabbitMQ())
        # In the broker's folder, which is removed even if this process is killed.
        folder = node.folder / "ledger"
        folder.mkdir(mode=0o700)
        loaded = _load(handler, node.url, sqlite_url(folder / "ledger.db"))
        return process.run(loaded, _Guide(loaded).see)


def _load(handler: str | None, amqp_url: str, ledger_url: str) -> Settings:
    return settings.load(handler=handler, amqp_url=amqp_url, ledger_url=ledger_url, migrate=True)


class _Guide:
    """Tells how to send a request, once the worker is up."""

    def __init__(self, loaded: Settings) -> None:
        self._loaded = loaded
        self._out = terminal.results()  # while the worker runs, what is printed goes to its log
        self._said = False

    def see(self, report: Report) -> None:
        if self._said or not report.started:
            return
        self._said = True
        with suppress(streams.UnwritableError):  # nobody reads it
            self._say()

    def _say(self) -> None:
        values = self._loaded.revealed()
        others = {"prefix"} & self._loaded.model_fields_set
        variables = " ".join(
            f"SESSION_WORKER_{name.upper()}={shlex.quote(values[name])}"
            for name in ("amqp_url", "ledger_url", *others)
        )
        request = '--user ada@example.com --title "Search of the east wing"'
        self._out.print()
        self._out.print(
            Text.assemble(
                ("The worker is up. ", "bold green"),
                "It runs until Ctrl-C; then broker and ledger are gone, and the next start begins anew. "
                "To send it a request, paste into another terminal:",
            )
        )
        self._out.print()
        self._out.print(f"export {variables}", soft_wrap=True)
        self._out.print(f"{program_name.anywhere()} send {request}", soft_wrap=True)
        self._out.print()
