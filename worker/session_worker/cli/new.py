"""``new``: a small project to begin with, made from the files in ``project``."""

from __future__ import annotations

import importlib.util
import keyword
import re
import shlex
import sys
from importlib import resources
from pathlib import Path
from string import Template

import typer
from rich.text import Text

from session_worker.cli import program_name, terminal

FILES = {
    "pyproject.toml": "pyproject.toml",
    "README.md": "README.md",
    "contracts.py": "${name}_contracts.py",
    "app.py": "${name}.py",
    "test.py": "test_${name}.py",
}
"""The files in ``project``, each with ``.template`` behind its name, and what they become."""
_NAME = re.compile(r"[a-z](?:[a-z0-9_]{0,38}[a-z0-9])?")


def new(name: str, into: str | None) -> None:
    """Write the project ``name`` into a folder, by default one of that name, and say what to do next.

    Raises:
        typer.BadParameter: the name is none for a module, or taken; the folder is not empty.
    """
    _check(name)
    folder = Path(into or name)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise typer.BadParameter(f"{folder} is not empty; name a new folder.", param_hint="--into")
    folder.mkdir(parents=True, exist_ok=True)
    templates = resources.files("session_worker.cli") / "project"
    for template, file in FILES.items():
        text = Template((templates / f"{template}.template").read_text("utf-8")).substitute(name=name)
        (folder / Template(file).substitute(name=name)).write_text(text, "utf-8")
    _say_next(name, folder)


def _check(name: str) -> None:
    problem = ""
    if not _NAME.fullmatch(name):
        problem = "is no name for a module; take up to 40 lower-case letters, digits and underscores"
    elif keyword.iskeyword(name):
        problem = "is a word of Python's; choose another one"
    elif name in sys.stdlib_module_names or any(
        importlib.util.find_spec(module) for module in (name, f"{name}_contracts")
    ):
        problem = "would hide a module that is installed; choose another name"
    if problem:
        raise typer.BadParameter(f"{name} {problem}.", param_hint="NAME")


def _say_next(name: str, folder: Path) -> None:
    out = terminal.results()
    done = f"{folder} has an app with one operation, its contracts and its tests."
    out.print(Text.assemble(("✓ ", "green"), done), soft_wrap=True)
    out.print("Next, with pytest and pytest-asyncio installed (its README.md says more):")
    out.print()
    if folder.resolve() != Path.cwd():
        out.print(f"cd {shlex.quote(str(folder))}", soft_wrap=True)
    out.print("pytest")
    out.print(f"{program_name.here()} dev {name}:app", soft_wrap=True)
