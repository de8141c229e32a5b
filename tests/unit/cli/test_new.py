"""`new`: what it writes, and what it refuses. tests/packaging/test_new_project.py uses it."""

from __future__ import annotations

import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest
import typer

from session_worker.cli.new import FILES, new


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_it_writes_a_project_into_a_folder_of_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    new("shop", None)
    assert names(Path("shop")) == {
        "README.md",
        "pyproject.toml",
        "shop.py",
        "shop_contracts.py",
        "test_shop.py",
    }
    text = "".join(path.read_text() for path in Path("shop").iterdir())
    assert "from shop_contracts import" in text
    assert "${" not in text
    assert "dev shop:app" in text
    assert capsys.readouterr().out.splitlines()[3] == "cd shop"


def test_every_template_is_written() -> None:
    templates = (resources.files("session_worker.cli") / "project").iterdir()
    assert {path.name for path in templates} == {f"{name}.template" for name in FILES}


def test_into_an_empty_folder_it_writes_right_there(capsys: pytest.CaptureFixture[str]) -> None:
    new("shop", ".")
    assert Path("shop.py").is_file()
    assert "cd " not in capsys.readouterr().out


@pytest.mark.parametrize("name", ["Shop", "my-shop", "7shop", "_shop", "shop_", "ładny", "", "a" * 41, "a/b"])
def test_a_name_that_no_module_can_have_is_refused(name: str) -> None:
    refused(name, None, "is no name for a module")


@pytest.mark.parametrize("name", ["json", "pydantic", "session_worker", "session", "test"])
def test_a_name_that_would_hide_a_module_is_refused(name: str) -> None:
    """`session` for its contracts: `session_contracts`."""
    refused(name, None, "would hide a module")


def test_a_word_of_pythons_is_refused() -> None:
    refused("class", None, "a word of Python")


def test_a_folder_with_something_in_it_is_left_alone() -> None:
    Path("shop").mkdir()
    Path("shop", "notes").touch()
    refused("shop", None, "shop is not empty")
    refused("other", "shop/notes", "notes is not empty")
    assert names(Path("shop")) == {"notes"}


def refused(name: str, into: str | None, words: str) -> None:
    before = names(Path())
    with pytest.raises(typer.BadParameter, match=words):
        new(name, into)
    assert names(Path()) == before


@pytest.mark.parametrize(
    "command", [["check", "--select", "A,B,E,F,I,N,RET,SIM,UP,W"], ["format", "--check"]]
)
def test_the_code_is_as_ruff_would_have_it(command: list[str]) -> None:
    pytest.importorskip("ruff", reason="ruff is not installed in this environment")
    new("shop", None)
    ruff = [sys.executable, "-m", "ruff", *command, "--isolated", "."]
    ran = subprocess.run(ruff, cwd="shop", capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout
