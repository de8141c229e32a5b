"""The pages do what they say: every command on them is run, in order, as a reader would."""

from __future__ import annotations

import os
import re
import sys
from dataclasses import fields
from pathlib import Path

from session_worker.operations.handler import Context
from tests.support.pages import blocks, follow, mentions

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
BROKER = "amqp://guest:guest@localhost:5672/"
REPOSITORY = "git+https://git.example.com/session-worker.git@COMMIT"
PROGRAMS = {"session-worker", "make", "docker", "python", "pip", "export"}
MADE_ELSEWHERE = {
    # Installing takes minutes. Of the next two this test sees only that they can be made: test_demo.py runs
    # the first, and the second runs this test.
    "make setup": f"ln -s {sys.prefix} .venv",
    "make demo": f"make -C {ROOT} --dry-run demo",
    "make test": f"make -C {ROOT} --dry-run test",
    # There is no Docker here: tests/unit/test_compose.py looks at the files.
    "docker compose up --build": f"test -f {ROOT}/docker-compose.yml",
}

ELSEWHERE = [
    # tests/packaging/test_installing.py runs them.
    "pip install ./contracts ./client .",
    "pip install ./contracts ./client",
    f'pip install "session-contracts @ {REPOSITORY}#subdirectory=contracts" \\',
    # There is no superuser to become: the test's own database is put in the place of this one.
    "sudo -u postgres psql -c \"CREATE ROLE sessions LOGIN PASSWORD 'password'\"",
    "docker compose exec worker session-worker send --user ada@example.com",
    "export SESSION_WORKER_AMQP_URL=amqp://session:session@localhost:5672/",
    "docker compose -f docker-compose.yml -f examples/docker-compose.secrets.yml up --build",
    "docker compose down --volumes",
    "sudo install -d -o 10001 -g 10001 ledger",
    "docker build --tag session-worker .",
]


def test_getting_started_can_be_followed_word_by_word(
    amqp_url: str, empty_postgresql_url: str, tmp_path: Path
) -> None:
    folder = tmp_path / "reader"
    folder.mkdir()

    printed = follow(
        DOCS / "getting-started.md",
        folder,
        replace={
            BROKER: amqp_url,
            "postgresql://sessions:password@localhost/sessions": empty_postgresql_url,
            **MADE_ELSEWHERE,
        },
        capture={"REQUEST_ID": r"request ([0-9a-f-]{36})", "SESSION_ID": r"completed +(ts_\w+)"},
        elsewhere=ELSEWHERE,
    )

    assert "went from version 0" in printed
    assert (Path(os.environ["XDG_STATE_HOME"]) / "session-worker" / "ledger.db").is_file()


def test_no_command_of_getting_started_is_only_told_of() -> None:
    """What the running text names stands in a block as well, and is run."""
    page = (DOCS / "getting-started.md").read_text()
    run = "\n".join(block.text for block in blocks(page))

    assert [command for command in mentions(page, PROGRAMS) if command not in run] == []


def test_the_handlers_page_has_a_handler_whose_tests_pass(tmp_path: Path) -> None:
    folder = tmp_path / "reader"
    folder.mkdir()

    follow(DOCS / "handlers.md", folder, replace={"python -m": f"{sys.executable} -m"})


def test_the_handlers_page_names_all_that_a_handler_gets() -> None:
    page = (DOCS / "handlers.md").read_text()

    assert re.findall(r"^\| `context\.(\w+)`", page, re.MULTILINE) == [each.name for each in fields(Context)]


def test_the_handler_of_the_readme_is_the_one_of_getting_started() -> None:
    """Which another test runs."""
    of_readme, of_getting_started = (
        [block.text for block in blocks(page.read_text()) if block.options.get("file") == "shop/sessions.py"]
        for page in (ROOT / "README.md", DOCS / "getting-started.md")
    )

    assert of_readme == of_getting_started
    assert len(of_readme) == 1


def test_the_readme_leads_to_a_first_request_where_nothing_runs_yet(tmp_path: Path) -> None:
    page, folder = tmp_path / "page.md", tmp_path / "reader"
    folder.mkdir()
    page.write_text("".join(map(section, ("Install and run", "A first request"))))

    follow(
        page,
        folder,
        replace={"make setup servers": f"ln -s {sys.prefix} .venv"},
        capture={
            "AMQP_URL": r"AMQP_URL=(\S+)",
            "LEDGER_URL": r"LEDGER_URL=(\S+)",
            "REQUEST_ID": r"request ([0-9a-f-]{36})",
        },
    )


def section(heading: str) -> str:
    """A section of the README, with its heading."""
    _, _, after = (ROOT / "README.md").read_text().partition(f"\n## {heading}\n")
    assert after
    text = after.partition("\n## ")[0]
    return f"## {heading}\n{text}\n"
