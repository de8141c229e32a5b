"""`session-worker new`, from the wheels: the project that it writes is whole, and passes its own tests."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from tests.packaging.conftest import clean, done, pip

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def project(python: Path, tmp_path: Path) -> Path:
    """The project, written into an empty folder."""
    folder = tmp_path / "empty"
    folder.mkdir()
    done(python.with_name("session-worker"), "new", "shop", "--into", ".", cwd=folder)
    return folder


def test_it_passes_its_own_tests(project: Path, python: Path) -> None:
    assert "3 passed" in done(python, "-m", "pytest", "-p", "no:cacheprovider", cwd=project)


def test_its_types_are_right_by_mypy(project: Path, python: Path) -> None:
    done(sys.executable, "-m", "mypy", "--python-executable", python, ".", cwd=project, env=clean())


def test_it_can_be_built_with_dependencies_named_as_its_comment_says(project: Path, tmp_path: Path) -> None:
    file = project / "pyproject.toml"
    lines = file.read_text().splitlines()
    named = [line.lstrip("# ") for line in lines if line.startswith('#     "session-')]
    assert len(named) == 3
    file.write_text("\n".join(lines).replace("dependencies = []", "dependencies = [" + "".join(named) + "]"))
    pip("wheel", "--no-index", "--no-deps", "--no-build-isolation", "--wheel-dir", tmp_path, project)
    assert [path.name for path in tmp_path.glob("*.whl")] == ["shop-0.1.0-py3-none-any.whl"]
