"""The command line, ``session-worker``: ``app.py`` lists the commands, their work is in other files."""

from __future__ import annotations

import os
import signal
import sys

from session_worker.cli import arguments, streams


def main() -> None:
    """Run the command line. Exit codes: 0 done, 1 failed, 2 wrong usage or settings, 130 interrupted."""
    if sys.argv[1:2] == ["run"]:
        leave_when_told(signal.SIGTERM, signal.SIGINT)
    streams.prepare()
    try:
        _run()
    except SystemExit as ended:
        process = sys.modules.get("session_worker.runtime.process")
        if process is not None and process.ran.is_set():  # its handlers may have left threads
            from session_worker.runtime.stopping import exit_soon

            exit_soon(ended.code if isinstance(ended.code, int) else int(ended.code is not None))
        raise


def _run() -> None:
    try:
        arguments.require_utf8()
        from session_worker.cli.app import app

        app(prog_name="session-worker")
    except KeyboardInterrupt:  # while the program is loaded; later the commands handle it
        raise SystemExit(130) from None
    except Exception as error:  # noqa: BLE001 - the last place that can turn an error into a sentence
        from session_worker.cli.problems import report

        raise SystemExit(report(error)) from None
    finally:
        streams.discard_unwritten()


def leave_when_told(*numbers: signal.Signals) -> None:
    """End at once on a signal: before a worker runs, there is nothing to clean up."""
    for number in numbers:
        signal.signal(number, lambda *_: os._exit(0))
