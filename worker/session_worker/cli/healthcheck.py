"""``python -m session_worker.cli.healthcheck``: whether the worker of this container is alive.

It finds the ops port where the worker does: among the options of the container's command, in the environment,
in a secret file.
"""

from __future__ import annotations

import argparse
import sys
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from pathlib import Path

from session_worker import settings
from session_worker.settings import InvalidSettingsError

ANSWER_SECONDS = 4.0
LOCAL = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared with, not listened on
"""Where a port that is open to everybody is asked."""


def main(command: Path = Path("/proc/1/cmdline")) -> int:
    """Return 0 if it is alive or has no ops port, else 1; say why on standard output."""
    options = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    options.add_argument("--ops-port")
    options.add_argument("--ops-host")
    given, _ = options.parse_known_args(command.read_text(errors="replace").split("\0"))
    try:
        loaded = settings.load_only(ops_port=given.ops_port, ops_host=given.ops_host)
    except InvalidSettingsError as error:
        return _said(1, " ".join(error.sentences))
    if loaded.ops_port == 0:
        return _said(0, "The ops port is off: there is nothing to ask.")
    host = LOCAL.get(loaded.ops_host, loaded.ops_host)
    connection = HTTPConnection(host, loaded.ops_port, timeout=ANSWER_SECONDS)
    try:
        connection.request("GET", "/livez")
        answer = connection.getresponse()
        text = answer.read().decode(errors="replace")
    except (OSError, HTTPException) as error:
        return _said(1, f"The ops port at {host}:{loaded.ops_port} does not answer: {error}.")
    finally:
        connection.close()
    return _said(0 if answer.status == HTTPStatus.OK else 1, text)


def _said(code: int, sentence: str) -> int:
    sys.stdout.write(f"{sentence}\n")
    return code


if __name__ == "__main__":
    raise SystemExit(main())
