"""The three distributions, built once, and an environment that has them as a user's has: from the wheels."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = {
    "session_contracts": ROOT / "contracts",
    "session_client": ROOT / "client",
    "session_worker": ROOT,
}
"""Where the project file of each distribution lies, by the package in it."""


def done(
    *command: object, cwd: Path = ROOT, env: dict[str, str] | None = None, timeout: float = 120.0
) -> str:
    """What a command prints; the test fails with all of it if the command does."""
    ran = subprocess.run(
        [str(each) for each in command],
        cwd=cwd,
        env=env or clean(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert ran.returncode == 0, f"{command[0]} ended with {ran.returncode}:\n{ran.stdout}"
    return ran.stdout


def clean(**variables: str) -> dict[str, str]:
    """This process's environment without what would lead Python to other modules, and with `variables`."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")} | variables


def pip(*arguments: object) -> None:
    """Run the pip of the tests' environment, without the network."""
    done(sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", *arguments)


def fresh(folder: Path) -> Path:
    """Make an environment with the libraries of the tests' and nothing of ours; return its Python."""
    venv.create(folder, symlinks=True)
    libraries = folder / "libraries"
    libraries.mkdir()
    for place in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
        for entry in Path(place).iterdir():
            if entry.suffix != ".pth" and not entry.name.startswith("session_"):
                (libraries / entry.name).symlink_to(entry)
    own = Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))
    (own / "libraries.pth").write_text(f"{libraries}\n")
    return folder / "bin" / "python"


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The wheel of each package, built as the pages say."""
    folder = tmp_path_factory.mktemp("wheels")
    pip("wheel", "--no-index", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, *FOLDERS.values())
    found = {path.name.partition("-")[0]: path for path in folder.glob("*.whl")}
    assert set(found) == set(FOLDERS)
    return found


@pytest.fixture(scope="session")
def sdists(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The source distribution of each package."""
    folder = tmp_path_factory.mktemp("sdists")
    for project in FOLDERS.values():
        done(
            sys.executable,
            "-m",
            "hatchling",
            "build",
            "--target",
            "sdist",
            "--directory",
            folder,
            cwd=project,
        )
    found = {path.name.partition("-")[0]: path for path in folder.glob("*.tar.gz")}
    assert set(found) == set(FOLDERS)
    return found


@pytest.fixture(scope="session")
def python(wheels: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment into which the wheels are installed, and nothing that is editable."""
    python = fresh(tmp_path_factory.mktemp("environment"))
    pip("--python", python, "install", "--no-index", *wheels.values())
    return python
