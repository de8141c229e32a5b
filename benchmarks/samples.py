"""What py-spy saw, by the place that the time belongs to."""

from __future__ import annotations

import re
import sysconfig
from collections import Counter
from pathlib import Path
from typing import Final

PROJECT: Final = Path(__file__).parents[1]
PACKAGES: Final = Path(sysconfig.get_path("purelib"))
_FRAME = re.compile(r"(?P<function>.*) \((?P<file>.*?)(?::\d+)?\)")
_BUILT = re.compile(r"/project/(?:build/)?(libuv|uvloop|asyncpg)")
"""Where the wheels of these packages were compiled."""
_WAITING: Final = frozenset(
    {
        *("epoll_wait", "epoll_pwait", "select_epoll_poll"),
        *("pthread_cond_wait", "pthread_cond_timedwait", "PyThread_acquire_lock_timed"),
    }
)
"""For an event, or for a lock: no CPU time."""
_SYSTEM_CALLS: Final = {
    "write": "writing to sockets and files",
    "writev": "writing to sockets and files",
    "send": "writing to sockets and files",
    "pwrite64": "writing to sockets and files",
    "fsync": "fsync",
    "fdatasync": "fsync",
    "read": "reading from sockets",
    "recv": "reading from sockets",
}


def by_place(stacks: str) -> Counter[str]:
    """Samples by place, from lines `outer;…;inner count`; those that only wait are left out."""
    places: Counter[str] = Counter()
    for line in stacks.splitlines():
        stack, _, count = line.rpartition(" ")
        frames = [found for part in reversed(stack.split(";")) if (found := _FRAME.fullmatch(part))]
        if not any(frame["function"] in _WAITING for frame in frames[:4]):
            places[_place(frames)] += int(count)
    return places


def _place(frames: list[re.Match[str]]) -> str:
    """A system call; else the innermost frame of ours or of a package that is known.

    The standard library and the interpreter count for whoever called them.
    """
    for frame in frames:
        if frame["function"] in _SYSTEM_CALLS:
            return _SYSTEM_CALLS[frame["function"]]
        path = Path(frame["file"])
        if path.is_relative_to(PACKAGES):
            return path.relative_to(PACKAGES).parts[0]
        if path.is_relative_to(PROJECT):
            return str(path.relative_to(PROJECT))
        if built := _BUILT.match(frame["file"]):
            return built[1].replace("libuv", "uvloop")
        if path.name.startswith(("libsqlite3", "_sqlite3")):
            return "SQLite"
        if "asyncio" in path.parts or path.name == "_asynciomodule.c":
            return "asyncio"
    return "the interpreter"
