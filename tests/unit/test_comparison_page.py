"""docs/comparison.md: each claim has its source, and the README's table has the same questions."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "comparison.md").read_text()
README = (ROOT / "README.md").read_text()
SOURCES = {
    "Celery": "https://github.com/celery/celery/",
    "FastStream": "https://github.com/ag2ai/faststream/",
    "Taskiq": "https://github.com/taskiq-python/taskiq/",
    "NServiceBus": "https://docs.particular.net/",
}
SECTIONS = dict(part.split("\n", 1) for part in PAGE.split("\n## ")[1:])


def claims(section: str) -> dict[str, str]:
    """What a section says of each project, with the lines joined."""
    found = re.findall(r"^- \*\*(.+?)\*\*: (.+?)(?=^- |\Z)", section, re.MULTILINE | re.DOTALL)
    return {project: " ".join(text.split()) for project, text in found}


def cells(row: str) -> list[str]:
    return [cell.strip() for cell in row.strip().strip("|").split("|")]


@pytest.mark.parametrize("question", SECTIONS)
def test_every_claim_about_others_links_to_a_source_of_theirs(question: str) -> None:
    said = claims(SECTIONS[question])
    assert "Session Worker" in said
    for project, text in said.items():
        links = re.findall(r"\]\((.+?)\)", text)
        assert project == "Session Worker" or links, project
        assert all(link.startswith(SOURCES[project]) for link in links), project


@pytest.mark.parametrize("question", SECTIONS)
def test_every_claim_about_this_project_names_a_test_that_is_there(question: str) -> None:
    said = claims(SECTIONS[question])["Session Worker"]
    named = re.findall(r"`(tests/\S+\.py)::(\w+)`", said)
    assert named
    for file, test in named:
        assert re.search(rf"^(?:async )?def {test}\(", (ROOT / file).read_text(), re.MULTILINE), test


def test_the_readme_asks_the_same_questions_and_answers_for_the_same_projects() -> None:
    head, _, *rows = (cells(line) for line in README.splitlines() if line.startswith("|"))
    table = rows[: len(SECTIONS)]
    assert [row[0] for row in table] == list(SECTIONS)
    for row in table:
        answered = {project for project, answer in zip(head[1:], row[1:], strict=True) if answer}
        assert answered == set(claims(SECTIONS[row[0]])), row[0]
