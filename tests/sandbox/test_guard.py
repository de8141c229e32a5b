"""A test run leaves nothing behind, however it ends."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.sandbox.test_sandbox import processes_of
from tests.support.waiting import soon

ROOT = Path(__file__).resolve().parents[2]

# What tests begin and would end themselves: a shell with a child in a session of its own, a private server,
# a folder.
TEST = """
import pathlib, subprocess, tempfile
from tests.support.servers import PostgreSQL

def test_it():
    with PostgreSQL() as server:
        folder = tempfile.mkdtemp(prefix="soak-")
        script = f"trap '' TERM HUP INT; sleep 1000; : {folder}"
        with subprocess.Popen(["bash", "-c", script], start_new_session=True):
            pathlib.Path(__file__).with_name("begun").write_text(folder)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_run_that_is_ended_leaves_no_process_and_no_folder(tmp_path: Path, number: signal.Signals) -> None:
    """Begun in the background, too, where a shell has SIGINT ignored."""
    (tmp_path / "test_it.py").write_text(TEST)
    options = f"-p tests.conftest -p no:cacheprovider -c {ROOT}/pyproject.toml -n 1"
    with subprocess.Popen(
        ["bash", "-c", f"trap '' INT; exec {sys.executable} -m pytest {options} {tmp_path}"],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
    ) as run:
        soon((tmp_path / "begun").exists, 60)
        folder = Path((tmp_path / "begun").read_text()).parent
        run.send_signal(number)
        assert run.wait(60) == (-number if number is signal.SIGKILL else 2)
    if number is signal.SIGKILL:
        soon(lambda: not folder.exists())
    assert not folder.exists()
    assert not processes_of(folder)
