"""The command line, ``session-worker``: ``app.py`` lists the commands, their work is in other files."""

from __future__ import annotations


def main() -> None:
    """Run the command line. Exit codes: 0 done, 1 failed, 2 wrong usage or settings, 130 interrupted."""
    from worker.cli.app import app

    try:
        app()
    except Exception as error:  # noqa: BLE001 - the last place that can turn an error into a sentence
        from worker.cli.problems import report

        raise SystemExit(report(error)) from None
