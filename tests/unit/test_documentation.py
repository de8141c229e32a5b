"""What the pages say of commands, settings, error codes and statuses is what the code has."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
import typer

from session_worker.cli.app import app

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_the_parts_made_from_the_code_are_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "docs" / "reference.py", "--check"],
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_to_files_and_headings_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]*)(#[^)]*)?\)", page.read_text()):
        path = (page.parent / target[0]).resolve() if target[0] else page
        assert path.exists(), target
        if target[1]:
            headings = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
            slugs = {"#" + re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert target[1] in slugs


def test_the_picture_of_the_readme_is_readable_on_light_and_on_dark_pages() -> None:
    """It brings its background along, and needs nothing that GitHub would not load."""
    (picture,) = re.findall(r"\((docs/img/\S+\.svg)\)", (ROOT / "README.md").read_text())
    root = ElementTree.parse(ROOT / picture).getroot()
    _, _, width, height = map(float, root.attrib["viewBox"].split())
    background = next(each for each in root if each.tag.endswith("rect")).attrib
    kinds = {each.tag.rpartition("}")[2] for each in root.iter()}

    assert background["fill"] == "#ffffff"
    assert float(background["width"]) >= width - 2
    assert float(background["height"]) >= height - 2
    assert kinds.isdisjoint({"script", "style", "image", "foreignObject", "a", "use"})


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
