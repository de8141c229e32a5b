"""The pages do what they say: every command on them is run, in order, as a reader would."""

from __future__ import annotations

import inspect
import json
import os
import re
import runpy
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import fields
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Annotated

import pytest
from pydantic import AfterValidator, ValidationError, create_model

import session_client
from session_client import SessionClient
from session_contracts import Operation, problems
from session_worker.operations.handler import Context
from tests.support.pages import blocks, follow, mentions

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.acceptance.conftest import Cli

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


def test_the_app_of_getting_started_is_what_new_writes(cli: Cli, tmp_path: Path) -> None:
    """So that the page shows the files which its reader has."""
    cli("new", "orders")
    shown = {
        block.options["file"]: block.text
        for block in blocks((DOCS / "getting-started.md").read_text())
        if "file" in block.options
    }

    for name in ("orders/orders.py", "orders/orders_contracts.py"):
        assert shown[name] == (tmp_path / name).read_text()


def test_no_command_of_getting_started_is_only_told_of() -> None:
    """What the running text names stands in a block as well, and is run."""
    page = (DOCS / "getting-started.md").read_text()
    run = "\n".join(block.text for block in blocks(page))

    assert [command for command in mentions(page, PROGRAMS) if command not in run] == []


@pytest.mark.parametrize("page", ["app", "blocking", "client", "sessions"])
def test_a_page_for_those_who_write_operations_can_be_followed_word_by_word(
    page: str, amqp_url: str, tmp_path: Path
) -> None:
    walk(page, tmp_path, {BROKER: amqp_url})


def test_the_page_of_resources_can_be_followed_word_by_word(amqp_url: str, tmp_path: Path) -> None:
    """With a billing service that sells one ticket for each idempotency key."""
    with billing() as (url, keys):
        walk("resources", tmp_path, {BROKER: amqp_url, "http://localhost:9000": url})
    assert len(keys) == 1


def test_the_page_about_testing_can_be_followed_word_by_word(tmp_path: Path) -> None:
    """Without a broker."""
    walk("testing", tmp_path, {})


def walk(page: str, tmp_path: Path, replace: dict[str, str]) -> None:
    folder = tmp_path / "reader"
    folder.mkdir()
    path = f"{Path(sys.prefix) / 'bin'}{os.pathsep}{os.environ['PATH']}"
    follow(DOCS / f"{page}.md", folder, replace=replace, env={"PATH": path})


@contextmanager
def billing() -> Iterator[tuple[str, set[str]]]:
    keys: set[str] = set()

    class Charges(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            keys.add(self.headers["Idempotency-Key"])
            self.send_response(201)
            self.end_headers()
            self.wfile.write(json.dumps({"receipt": f"r-{len(keys)}"}).encode())

        def log_message(self, *_: object) -> None:
            """Say nothing on standard error."""

    with HTTPServer(("127.0.0.1", 0), Charges) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", keys
        finally:
            server.shutdown()


@pytest.mark.parametrize("page", ["app", "blocking", "client", "resources", "sessions", "testing"])
def test_type_checkers_find_nothing_in_the_programs_of_a_page(page: str, tmp_path: Path) -> None:
    for block in blocks((DOCS / f"{page}.md").read_text()):
        if "file" in block.options:
            (tmp_path / block.options["file"]).write_text(block.text)

    checked = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--cache-dir", tmp_path / "cache", "."],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )

    assert checked.stdout.startswith("Success"), checked.stdout + checked.stderr


def test_the_page_of_the_client_names_its_methods_options_and_errors() -> None:
    named = set(re.findall(r"^\| `(\w+)", (DOCS / "client.md").read_text(), re.MULTILINE))
    methods = {name for name in vars(SessionClient) if not name.startswith("_")} - {"open", "close"}
    errors = set(session_client.__all__) - {"SessionClient", "SyncSessionClient", "SessionClientError"}

    assert methods | set(inspect.signature(SessionClient).parameters) | errors <= named


def test_the_page_of_operations_names_all_that_a_handler_gets() -> None:
    page = (DOCS / "app.md").read_text()

    assert re.findall(r"^\| `context\.(\w+)`", page, re.MULTILINE) == [each.name for each in fields(Context)]


def test_the_errors_that_the_page_of_operations_quotes_are_those_of_its_contract(tmp_path: Path) -> None:
    page, file = (DOCS / "app.md").read_text(), tmp_path / "contract.py"
    file.write_text(next(block.text for block in blocks(page) if "file" in block.options))
    contract = runpy.run_path(str(file))
    haunted = create_model(
        "Haunted", __base__=contract["BookRoom"], room=(Annotated[str, AfterValidator(refuse)], ...)
    )

    for operation, payload in (
        (contract["BOOK"], {"room": "Tower", "seats": 0}),
        (Operation("haunted", haunted, haunted), {"room": "Tower", "seats": 8, "day": "2026-12-24"}),
    ):
        with pytest.raises(ValidationError) as refused:
            operation.read(json.dumps({"user_id": "ada@example.com", "payload": payload}).encode())
        assert f"`{problems(refused.value)}`" in page


def refuse(room: str) -> str:
    raise ValueError(f"nobody goes to {room}")


def test_the_operation_of_the_readme_is_that_of_its_page() -> None:
    """Which another test runs."""
    of_readme, of_page = (
        {block.options["file"]: block.text for block in blocks(page.read_text()) if "file" in block.options}
        for page in (ROOT / "README.md", DOCS / "app.md")
    )

    del of_readme["first.py"]
    assert set(of_readme) == {"rooms_contracts.py", "rooms.py"}
    assert of_readme.items() <= of_page.items()


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
