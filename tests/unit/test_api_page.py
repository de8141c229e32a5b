"""docs/api.md lists what each package exports, all of it and nothing else."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "api.md").read_text()
PACKAGES = [
    "session_contracts",
    "session_client",
    "session_client.testing",
    "session_worker",
    "session_worker.testing",
]
SESSIONS = ["create_session", "get_session", "list_sessions", "close_session"]
CLIENT = ["open", "close", "call", *SESSIONS, "request"]


def listed(package: str) -> list[str]:
    """The names in the first column of the table under the package's heading."""
    part = PAGE.split(f"\n## `{package}`\n")[1].split("\n## ")[0]
    cells = re.findall(r"^\| (`.+?) \|", part, re.MULTILINE)
    return [name for cell in cells for name in re.findall(r"`(\w+)`", cell)]


@pytest.mark.parametrize("package", PACKAGES)
def test_the_page_lists_what_a_package_exports(package: str) -> None:
    assert sorted(listed(package)) == sorted(importlib.import_module(package).__all__)


@pytest.mark.parametrize("package", PACKAGES)
def test_what_a_package_exports_is_there(package: str) -> None:
    """Two of them import a name only when it is asked for."""
    module = importlib.import_module(package)
    assert all(getattr(module, name) for name in module.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        module.nothing  # noqa: B018


@pytest.mark.parametrize(
    ("package", "name", "members"),
    [
        ("session_client", "SessionClient", CLIENT),
        ("session_client", "SyncSessionClient", CLIENT),
        ("session_client", "RequestFailed", ["code", "retryable"]),
        ("session_client.testing", "FakeWorker", ["answer", "client", "sync_client"]),
    ],
)
def test_the_members_that_the_page_names_are_all_that_is_public(
    package: str, name: str, members: list[str]
) -> None:
    [row] = [line for line in PAGE.splitlines() if line.startswith(f"| `{name}` |")]
    found = vars(getattr(importlib.import_module(package), name))
    assert sorted(each for each in found if not each.startswith("_")) == sorted(members)
    assert all(f"`{member}`" in row for member in members)
