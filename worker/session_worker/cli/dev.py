"""``dev``: a worker, a broker and a ledger for whoever writes an app or a requester."""

from __future__ import annotations

import json
import os
import shlex
import sys
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.text import Text

from session_contracts.sessions import BUILT_IN, CREATE_SESSION
from session_worker import settings
from session_worker.cli import interrupts, program_name, streams, terminal
from session_worker.cli.demo import show
from session_worker.cli.example import example
from session_worker.operations import loading
from session_worker.runtime import process, reloading
from session_worker.sandbox import RabbitMQ
from session_worker.settings.default_ledger import sqlite_url
from session_worker.telemetry import capture, log

if TYPE_CHECKING:
    from session_contracts import Operation
    from session_worker.operations.app import App
    from session_worker.runtime.health import Report
    from session_worker.settings import Settings

OWN = ("SESSION_WORKER_AMQP_URL", "SESSION_WORKER_LEDGER_URL")


def dev(app: str | None, handler: str | None, *, reload: bool) -> int:
    """Run the worker until it is told to stop, and return its exit code. Nothing is left behind.

    Raises:
        AppError, ReloadError, SandboxError: the app cannot be served or watched, or the broker not be had.
    """
    interrupts.listen()
    sys.path.insert(0, str(Path.cwd()))
    if ignored := [name for name in OWN if name in os.environ]:
        terminal.notices().print(f"Its own are used in place of {' and '.join(ignored)}.", soft_wrap=True)
    # Check settings and app first: starting the broker takes about ten seconds.
    loaded = _load(app, handler, "amqp://127.0.0.1/", "sqlite:///ledger.db")
    if reload:
        reloading.check(loaded)
    log.configure(loaded.log_level)
    with capture.output():  # as in the worker, so that logging which the module sets up adds no lines
        served = loading.load(loaded.app, loaded.handler)
    with ExitStack() as stack:
        with show.step("a private RabbitMQ", "it takes about ten seconds"):
            node = stack.enter_context(RabbitMQ())
        # In the broker's folder, which is removed even if this process is killed.
        folder = node.folder / "ledger"
        folder.mkdir(mode=0o700)
        loaded = _load(app, handler, node.url, sqlite_url(folder / "ledger.db"))
        run = reloading.run if reload else process.run
        return run(loaded, _Guide(loaded, served).see)


def _load(app: str | None, handler: str | None, amqp_url: str, ledger_url: str) -> Settings:
    return settings.load(app=app, handler=handler, amqp_url=amqp_url, ledger_url=ledger_url, migrate=True)


class _Guide:
    """Tells how to send requests, once the worker is up."""

    def __init__(self, loaded: Settings, app: App[Any]) -> None:
        self._loaded = loaded
        self._operations = [binding.operation for binding in app.bindings]
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
        # Those of the app come first.
        for operation in sorted(self._operations, key=BUILT_IN.__contains__):
            self._out.print(f"{program_name.anywhere()} send {_request(operation)}", soft_wrap=True)
        self._out.print()


def _request(operation: Operation[Any, Any]) -> str:
    """The options of ``send`` for a request that asks for this."""
    if operation is CREATE_SESSION:
        return '--user ada@example.com --title "Search of the east wing"'
    payload = shlex.quote(json.dumps(example(operation.payload)))
    return f"--operation {operation.name} --user ada@example.com --payload {payload}"
