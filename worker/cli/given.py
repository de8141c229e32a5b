"""The settings of a command that uses a few of them."""

from __future__ import annotations

from functools import cache

from worker import settings
from worker.cli import console


def load_only(**flags: object) -> settings.Settings:
    """See ``settings.load_only``. What looks like a setting and is none is told: it could have been meant for
    this command."""
    loaded = settings.load_only(**flags)
    _tell_unknown()
    return loaded


@cache
def _tell_unknown() -> None:
    """Once for each command."""
    for name, nearest in settings.unknown_variables().items():
        said = f"session-worker: nothing reads {name}; perhaps {nearest} is meant."
        console.notices().print(said, soft_wrap=True)
