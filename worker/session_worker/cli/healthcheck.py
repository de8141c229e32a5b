"""``python -m session_worker.cli.healthcheck``: whether the worker of this container is alive.

It finds the ops port where the worker does: among the options of the container's command, in the environment,
in a secret file.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from http import HTTPStatus
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING

from session_worker import settings
from session_worker.cli import streams
from session_worker.runtime import probe
from session_worker.settings import InvalidSettingsError
from session_worker.telemetry.printable import printable

if TYPE_CHECKING:
    from collections.abc import Iterator

ANSWER_SECONDS = 4.0


def main(command: Path = Path("/proc/1/cmdline")) -> int:
    """Return 0 if it is alive or has no ops port, else 1; say why on standard output."""
    options = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    options.add_argument("--ops-port")
    options.add_argument("--ops-host")
    given, _ = options.parse_known_args(list(_arguments(command)))
    try:
        loaded = settings.load_only(ops_port=given.ops_port, ops_host=given.ops_host)
    except InvalidSettingsError as error:
        return _said(1, str(error))
    if loaded.ops_port == 0:
        return _said(0, "The ops port is off: there is nothing to ask.")
    try:
        status, body = probe.ask(loaded.ops_host, loaded.ops_port, "/livez", ANSWER_SECONDS)
    except (OSError, HTTPException) as error:
        return _said(1, f"The ops port at {loaded.ops_host}:{loaded.ops_port} does not answer: {error}.")
    return _said(0 if status == HTTPStatus.OK else 1, body.decode(errors="replace"))


def _arguments(command: Path) -> Iterator[str]:
    """What the container was started with, as far as this user may see it: a command for a shell word by word
    (``sh -c "session-worker run --ops-port 9464"``)."""
    try:
        arguments = command.read_text(errors="replace").split("\0")
    except OSError:
        return
    for argument in arguments:
        if " --ops-" not in argument:
            yield argument
            continue
        words = shlex.shlex(os.path.expandvars(argument), posix=True, punctuation_chars=True)
        words.whitespace_split = True
        try:
            yield from words
        except ValueError:  # a quotation that has no end
            return


def _said(code: int, text: str) -> int:
    sys.stdout.write(f"{printable(text.rstrip())}\n")
    return code


if __name__ == "__main__":
    streams.prepare()
    raise SystemExit(main())
