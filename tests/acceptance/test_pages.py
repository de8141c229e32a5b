"""The programs on the pages do what the pages say."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.acceptance.conftest import Cli
    from tests.support.worker_process import WorkerProcess

ROOT = Path(__file__).resolve().parents[2]


def program(page: str) -> str:
    """The one Python program on a page."""
    (found,) = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    return str(found)


def test_the_first_request_of_the_readme_prints_a_session(
    worker_process: Callable[..., WorkerProcess], amqp_url: str, sqlite_url: str
) -> None:
    worker_process(amqp_url=amqp_url, ledger_url=sqlite_url)
    there = program("README.md").replace("amqp://guest:guest@localhost:5672/", amqp_url)
    assert amqp_url in there

    done = subprocess.run([sys.executable, "-c", there], capture_output=True, text=True, check=True)

    assert re.fullmatch(r"ts_\d{6}_[0-9a-z]{12}\n", done.stdout)


def test_the_handler_of_getting_started_rejects_and_adds_as_it_says(
    cli: Cli,
    worker_process: Callable[..., WorkerProcess],
    amqp_url: str,
    sqlite_url: str,
    tmp_path: Path,
) -> None:
    """Found in the folder in which the worker is started."""
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "sessions.py").write_text(program("docs/getting-started.md"))
    worker_process(amqp_url=amqp_url, ledger_url=sqlite_url, handler="shop.sessions:handle")

    (welcome,) = cli("send", "--user", "ada@example.com", "--json", amqp_url=amqp_url).documents
    (refused,) = cli("send", "--user", "ada@example.org", "--json", amqp_url=amqp_url).documents

    assert (welcome["status"], welcome["metadata"]["region"]) == ("completed", "eu-1")
    assert (refused["status"], refused["metadata"]["error_code"]) == ("failed", "rejected")
    assert refused["metadata"]["rejection_code"] == "organisation"
    assert refused["error"] == "no sessions for this organisation"
