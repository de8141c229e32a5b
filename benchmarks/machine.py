"""On what it was measured."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from benchmarks.stage import Stage

PACKAGES: Final = (
    *("session-worker", "aio-pika", "aiormq", "asyncpg", "pydantic", "uvloop"),
    *("faststream", "celery", "dramatiq", "taskiq", "taskiq-aio-pika"),
)


def describe(stage: Stage) -> dict[str, Any]:
    """The machine, and the versions of all that took part."""
    return {
        "processor": _field("/proc/cpuinfo", "model name"),
        "cores": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "kernel": platform.release(),
        "filesystem": _filesystem(stage.folder),
        "load_before": os.getloadavg()[0],
        "versions": {
            "Python": sys.version.split()[0],
            "RabbitMQ": stage.node.eval("rabbit_misc:version()").strip('"'),
            "PostgreSQL": stage.postgresql.execute("SHOW server_version").strip(),
            "SQLite": _sqlite_version(),
        }
        | {name: found for name in PACKAGES if (found := _version(name))},
        "commit": _commit(),
    }


def _field(path: str, name: str) -> str:
    lines = Path(path).read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), "unknown")


def _filesystem(folder: Path) -> str:
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    inside = [fields for fields in mounts if folder.is_relative_to(fields[1])]
    return max(inside, key=lambda fields: len(fields[1]))[2]


def _sqlite_version() -> str:
    import sqlite3

    return sqlite3.sqlite_version


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str:
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or "unknown"
