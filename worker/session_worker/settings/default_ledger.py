"""Where the ledger is if no setting says so: one place for each user, whatever the current folder."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import quote

FORMER = Path("session-worker.db")
"""The ledger that earlier releases made in the current folder."""


def state_folder() -> Path:
    """The folder for what must outlive the worker. It may not exist yet."""
    service = os.environ.get("STATE_DIRECTORY", "").partition(":")[0]  # systemd's
    if os.path.isabs(service):  # noqa: PTH117 - which takes an empty one
        return Path(service)
    users = Path(os.environ.get("XDG_STATE_HOME", ""))
    if users.is_absolute():
        return users / "session-worker"
    home = Path(os.path.expanduser("~"))  # noqa: PTH111 - Path.home() raises for a user without a home
    if os.geteuid() == 0 or not home.is_absolute() or not os.path.isdir(home):  # noqa: PTH112
        return Path("/var/lib/session-worker")
    return home / ".local/state/session-worker"


def default_ledger_url() -> str:
    """The URL of the ledger if no setting names one."""
    return sqlite_url(state_folder() / "ledger.db")


def sqlite_url(path: Path) -> str:
    """The URL of a SQLite ledger in this file."""
    return f"sqlite:///{quote(str(path))}"
