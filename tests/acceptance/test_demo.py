"""`demo`: shows the promise, and would notice if it were broken."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from tests.acceptance.conftest import environment
from tests.support.worker_process import PROGRAM

if TYPE_CHECKING:
    import pytest

    from tests.acceptance.conftest import Cli
    from tests.support.external_rabbitmq import ExternalRabbitMQ
    from tests.support.servers import PostgreSQL, RabbitMQ

README = Path(__file__).resolve().parents[2] / "README.md"


def test_the_demo_proves_the_promise_on_its_own_broker(cli: Cli, tmp_path: Path) -> None:
    """What the README shows: every count is what it must be, a timeline of three attempts, exit code 0."""
    ran = cli("demo")

    table = [line for line in README.read_text().splitlines() if line.endswith("✓")]
    assert ran.code == 0, ran.out + ran.err
    assert len(table) == 9
    assert set(table) <= {line.rstrip() for line in ran.out.splitlines()}
    assert "differs" not in ran.out
    assert "ConnectionError: the demo lets attempt 2 fail" in ran.out
    assert "Proven: 1,000 messages got 1,000 answers." in ran.out
    assert "including the forced waits of 1 s and 1 s" in ran.out
    (next_step,) = re.findall("^Next: `(.+? dev)`", ran.out.splitlines()[-1])
    assert (
        subprocess.run(f"{next_step} --help", shell=True, cwd=tmp_path, capture_output=True).returncode == 0
    )
    assert "starting a private RabbitMQ: it takes about ten seconds" in ran.err


def test_the_demo_leaves_no_queue_on_a_broker_of_others(
    cli: Cli,
    rabbitmq: RabbitMQ | ExternalRabbitMQ,
    vhost: str,
    amqp_url: str,
    postgresql: PostgreSQL,
    postgresql_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And its entries stay in the ledger that was named."""
    monkeypatch.setenv("PGPASSWORD", postgresql.password)  # on the command line everybody could see it
    named = postgresql_url.replace(f":{postgresql.password}@", "@")
    ran = cli("demo", "--count", 100, "--amqp-url", amqp_url, "--ledger-url", named)

    assert ran.code == 0, ran.out + ran.err
    assert re.search(r"^reply +sent", ran.out, re.MULTILINE), "the worker's note is waited for"
    assert rabbitmq.queue_depths(vhost) == {}
    assert len(cli("requests", "--limit", 1000, "--json", ledger_url=postgresql_url).documents) == 86


def test_a_worker_that_dies_ends_the_demo_with_its_log(amqp_url: str, tmp_path: Path) -> None:
    """No proof, exit code 1, and where to look."""
    process = subprocess.Popen(
        [PROGRAM, "demo", "--count", "20000", "--amqp-url", amqp_url],
        env=environment() | {"TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        while "✓ a worker process" not in (line := process.stdout.readline()):
            assert line, "the demo ended before its worker was up"
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        for child in children:
            os.kill(int(child), signal.SIGKILL)
        out, err = process.communicate(timeout=60)

    (log,) = tmp_path.glob("session-worker-demo-*/worker.log")
    assert process.returncode == 1
    assert "Proven" not in out
    assert "exit code -9" in err
    assert str(log) in err
    assert "Traceback" not in err
