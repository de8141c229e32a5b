"""What the documentation says of commands, settings, error codes and statuses is what the code has."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import typer

from session_worker.cli.app import app

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).resolve().parents[3]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_the_parts_made_from_the_code_are_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "docs" / "reference.py", "--check"],
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("commands", [[], ["ledger"], ["dead"], ["topology"]], ids=" ".join)
def test_every_command_is_listed_with_a_whole_sentence(
    run: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch, commands: list[str]
) -> None:
    """On 80 columns none is cut off."""
    monkeypatch.setenv("COLUMNS", "80")
    _, out, _ = run(*commands, "--help")
    listed = [line for line in out.partition("Commands:\n")[2].partition("\n\n")[0].splitlines() if line]

    assert listed
    assert all(line.endswith(".") and not line.endswith("...") for line in listed), listed


@pytest.mark.parametrize("columns", [40, 60, 80, 200])
def test_help_breaks_no_word_and_goes_beyond_no_edge_but_with_one(
    run: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    """However narrow the terminal is; no program's name is split at its hyphen, and no URL."""
    for command in ("run", "send", "demo", "dead redrive", "ledger copy", "doctor"):
        monkeypatch.setenv("COLUMNS", "1000")
        _, whole, _ = run(*command.split(), "--help")
        monkeypatch.setenv("COLUMNS", str(columns))
        _, out, _ = run(*command.split(), "--help")

        assert out.split() == whole.split()
        texts = out.partition("Options:")[2].splitlines()
        assert not [line for line in texts if len(line) > columns and len(line.split()) > 1]


@pytest.mark.parametrize(
    ("command", "usage"),
    [("status", "REQUEST_ID"), ("dead show", "ID"), ("schema", "request|response|asyncapi")],
)
def test_an_argument_stands_in_the_usage_line_by_its_name_alone(
    run: Callable[..., tuple[int, str, str]], command: str, usage: str
) -> None:
    _, out, _ = run(*command.split(), "--help")

    assert out.startswith(f"Usage: session-worker {command} [OPTIONS] {usage}\n")
    assert "<str>" not in out


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_to_files_and_headings_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]*)(#[^)]*)?\)", page.read_text()):
        path = (page.parent / target[0]).resolve() if target[0] else page
        assert path.exists(), target
        if target[1]:
            headings = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
            slugs = {"#" + re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert target[1] in slugs


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_line_on_a_page_is_one(page: Path) -> None:
    """Commands and options that the pages mention exist."""
    root = typer.main.get_command(app)
    for line in re.findall(r"(?:^|`|/|\$ )session-worker ([a-z][^`\n]*)", page.read_text(), re.MULTILINE):
        command, words = root, line.rstrip("\\ ").split()
        while words and hasattr(command, "commands") and words[0] in command.commands:
            command = command.commands[words.pop(0)]
        assert command is not root, line
        with typer.Context(command) as context:
            options = command.get_params(context)
        known = {name for option in options for name in (*option.opts, *option.secondary_opts)}
        assert {word for word in words if word.startswith("--")} <= known | {"--help"}, line
