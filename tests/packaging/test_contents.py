"""Each distribution holds its own package and nothing else, and brings along only what it needs."""

from __future__ import annotations

import tarfile
import zipfile
from email import message_from_bytes
from importlib import metadata
from typing import TYPE_CHECKING

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.packaging.conftest import FOLDERS, pip

if TYPE_CHECKING:
    from pathlib import Path

SOURCES = {
    "session_contracts": FOLDERS["session_contracts"],
    "session_client": FOLDERS["session_client"],
    "session_worker": FOLDERS["session_worker"] / "worker",
}
"""The folder that holds each package."""
WORKERS_ALONE = {"asyncpg", "typer", "rich", "structlog", "prometheus-client", "uvloop", "session-worker"}
PROJECT_FILES = {"LICENSE", "PKG-INFO", "README.md", "pyproject.toml", ".gitignore"}


def files_of(package: str) -> set[str]:
    """The files of a package in this repository, relative to the folder that holds it."""
    folder = SOURCES[package]
    files = (path for path in (folder / package).rglob("*") if path.is_file())
    return {str(path.relative_to(folder)) for path in files if "__pycache__" not in path.parts}


def in_wheel(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def requirements(wheel: Path) -> list[Requirement]:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        texts = message_from_bytes(archive.read(name)).get_all("Requires-Dist", [])
    return [Requirement(text) for text in texts]


def brought(wheels: dict[str, Path], *packages: str) -> set[str]:
    """The names of all that an empty environment has once these packages are installed."""
    ours = {canonicalize_name(package): wheel for package, wheel in wheels.items()}
    found: set[str] = set()
    waiting = [Requirement(package) for package in packages]
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        if name in found or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
            continue
        found.add(name)
        if name in ours:
            waiting += requirements(ours[name])
        else:
            waiting += [Requirement(text) for text in metadata.distribution(name).requires or ()]
    return found


@pytest.mark.parametrize("package", FOLDERS)
def test_a_wheel_holds_its_package_whole_and_nothing_else(package: str, wheels: dict[str, Path]) -> None:
    """The marker that it is typed and the ledger's migrations included; no tests, no neighbour's files."""
    files = {name for name in in_wheel(wheels[package]) if ".dist-info/" not in name}
    assert files == files_of(package)
    assert f"{package}/py.typed" in files
    migrations = {name for name in files if name.endswith(".sql")}
    assert bool(migrations) == (package == "session_worker")


@pytest.mark.parametrize("package", FOLDERS)
def test_a_source_distribution_holds_its_own_files_and_builds_the_same_wheel(
    package: str, wheels: dict[str, Path], sdists: dict[str, Path], tmp_path: Path
) -> None:
    with tarfile.open(sdists[package]) as archive:
        names = {member.name.partition("/")[2] for member in archive if member.isfile()}
    folder = "worker/" if package == "session_worker" else ""
    assert names - PROJECT_FILES == {folder + name for name in files_of(package)}

    pip("wheel", "--no-index", "--no-deps", "--no-build-isolation", "--wheel-dir", tmp_path, sdists[package])
    assert in_wheel(tmp_path / wheels[package].name) == in_wheel(wheels[package])


def test_a_requester_gets_nothing_that_only_workers_need(wheels: dict[str, Path]) -> None:
    """No driver of a database, no command line, no metrics."""
    found = brought(wheels, "session-contracts", "session-client")
    assert {"session-contracts", "session-client", "pydantic"} <= found
    assert found & WORKERS_ALONE == set()
    assert brought(wheels, "session-worker") >= WORKERS_ALONE


def test_the_contracts_bring_pydantic_and_nothing_else(wheels: dict[str, Path]) -> None:
    assert brought(wheels, "session-contracts") == {"session-contracts"} | brought(wheels, "pydantic")
