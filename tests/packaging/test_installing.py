"""The lines that the pages give for an installation work, and take nothing of ours from an index."""

from __future__ import annotations

import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.packaging.conftest import ROOT, clean, done, fresh
from tests.support.pages import blocks

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Run = Callable[[str], "subprocess.CompletedProcess[str]"]

REPOSITORY = "git+https://git.example.com/session-worker.git@COMMIT"
LINES = [
    command.text
    for block in blocks((ROOT / "docs" / "getting-started.md").read_text())
    if block.language == "sh"
    for command in block.commands
    if command.text.startswith("pip install ")
]


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """The Python of an environment with all libraries and nothing of ours."""
    return fresh(tmp_path / "environment")


@pytest.fixture
def run(python: Path) -> Run:
    """Runs a line that begins with `pip install`, in the checkout and into `python`, without any index."""

    def run(line: str) -> subprocess.CompletedProcess[str]:
        # As a flag of its own it would have to be on the pages: what is installed builds offline, too.
        options = "--no-index --no-build-isolation --no-warn-script-location"
        command = line.replace(
            "pip install", f"'{sys.executable}' -m pip --python '{python}' install {options}", 1
        )
        return subprocess.run(
            command.replace(REPOSITORY, f"git+file://localhost{ROOT}"),
            shell=True,
            cwd=ROOT,
            env=clean(),
            capture_output=True,
            text=True,
            check=False,
        )

    return run


@pytest.mark.parametrize("line", LINES)
def test_a_line_of_the_page_installs_what_it_is_for(
    line: str, run: Run, python: Path, tmp_path: Path
) -> None:
    if REPOSITORY in line and (shutil.which("git") is None or not (ROOT / ".git").exists()):
        pytest.skip("this is no checkout of git's")
    ran = run(line)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    done(python, "-c", "import session_client, session_contracts", cwd=tmp_path)


def test_the_page_has_lines_for_workers_for_requesters_and_for_a_repository() -> None:
    assert len(LINES) == 3
    assert sum(REPOSITORY in line for line in LINES) == 1


@pytest.mark.parametrize("line", ["pip install .", "pip install ./client"])
def test_one_of_the_three_alone_would_ask_an_index_for_the_others(line: str, run: Run) -> None:
    """Which is why the pages name them all: what an index has under these names is not ours."""
    ran = run(line)
    assert ran.returncode != 0
    assert "session-c" in ran.stderr
