"""The settings of a command that uses a few of them."""

from __future__ import annotations

from functools import cache

from session_worker import settings
from session_worker.cli import streams


def load_only(**flags: object) -> settings.Settings:
    """See ``settings.load_only``. Tell of what looks like a setting and is none: it may be meant for this
    command."""
    loaded = settings.load_only(**flags)
    _tell_unknown()
    return loaded


@cache
def _tell_unknown() -> None:
    """Once for each command."""
    for name, nearest in settings.unknown_variables().items():
        streams.complain(f"nothing reads {name}; perhaps {nearest} is meant.")
