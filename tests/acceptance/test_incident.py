"""An incident from its first letter to the last answer, with no commands but those of docs/operations.md."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import subprocess
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from session_worker.ledger import open_reader
from session_worker.sandbox.workspace import free_port
from tests.acceptance.conftest import environment
from tests.support import stand_ins
from tests.support.lab import answer, request
from tests.support.pages import blocks
from tests.support.requester import Requester
from tests.support.waiting import soon
from tests.support.worker_process import PROGRAM

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.external_rabbitmq import ExternalRabbitMQ
    from tests.support.servers import RabbitMQ
    from tests.support.worker_process import WorkerProcess

PAGE = Path(__file__).resolve().parents[2] / "docs" / "operations.md"
REQUESTERS, EACH = 10, 100
ALL = REQUESTERS * EACH
DEAD = "session.create.dead"
BUGGY = """
PLANS = {}


async def handle(request, context):
    return {"plan": PLANS[request.user_id]}
"""
MENDED = BUGGY.replace("PLANS[request.user_id]", 'PLANS.get(request.user_id, "free")')


class Operator:
    """Types what stands under a heading of the page."""

    def __init__(self, folder: Path, ops_port: int, **settings: object) -> None:
        self._folder = folder
        self._port = ops_port
        self._env = environment(**settings) | {"COLUMNS": "200"}
        programs = folder / "bin"
        programs.mkdir()
        stand_ins.fill(programs)
        self._env["PATH"] = f"{programs}:{PROGRAM.parent}:{self._env['PATH']}"
        self._printed = ""

    def commands(self, heading: str) -> list[str]:
        there = [block for block in blocks(PAGE.read_text()) if block.heading == heading]
        return [command.text for block in there for command in block.commands]

    def begin(self, command: str) -> subprocess.Popen[str]:
        if "REQUEST_ID" in command:
            command = command.replace(
                "REQUEST_ID", re.findall(r"[0-9a-f]{8}-[0-9a-f-]{27}", self._printed)[-1]
            )
        return subprocess.Popen(
            ["bash", "-c", command.replace("localhost:9464", f"localhost:{self._port}")],
            env=self._env,
            cwd=self._folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, command: str) -> str:
        """What it printed; it must succeed."""
        process = self.begin(command)
        printed, _ = process.communicate(timeout=60)
        assert process.returncode == 0, f"{command}\n{printed}"
        self._printed += printed
        return printed


def test_a_thousand_failed_requests_are_seen_mended_and_answered(
    worker_process: Callable[..., WorkerProcess],
    rabbitmq: RabbitMQ | ExternalRabbitMQ,
    vhost: str,
    amqp_url: str,
    ledger_url: str,
    tmp_path: Path,
) -> None:
    """Of ten requesters. The redrive of all is killed half-way and run again; nothing is done twice."""
    handler = tmp_path / "shop" / "sessions.py"
    handler.parent.mkdir()
    handler.write_text(BUGGY)
    place = {"amqp_url": amqp_url, "ledger_url": ledger_url}
    port = free_port()
    settings = {"handler": "shop.sessions:handle", "max_attempts": 2, "retry_delays": "1", "ops_port": port}
    worker = worker_process(**place, **settings)
    operator = Operator(tmp_path, port, **place)

    def letters() -> int:
        return rabbitmq.queue_depths(vhost)[DEAD]

    with ExitStack() as stack:
        requesters = [stack.enter_context(Requester(amqp_url)) for _ in range(REQUESTERS)]
        asked = {requester.reply_to: {str(uuid4()) for _ in range(EACH)} for requester in requesters}
        for requester in requesters:
            for request_id in asked[requester.reply_to]:
                requester.send(request(request_id))
        for requester in requesters:
            requester.collect(EACH, 60)
        soon(lambda: letters() == ALL, 30)

        metric, groups, listed, failed, shown = map(operator.run, operator.commands("Dead letters"))
        assert re.search(
            r'parked_total\{operation="create_session",reason="handler_failed"\} 1000\.0', metric
        )
        assert re.search(rf"^ *{ALL:,} +create_session +handler_failed +KeyError ", groups, re.MULTILINE)
        assert listed.count("KeyError: 'ada@example.com'") == failed.count("failed: handler_failed") == 50
        assert "PLANS[request.user_id]" in shown

        restart, foresee, try_one, look, redrive, check = operator.commands("When the cause is fixed")
        assert restart == "systemctl restart session-worker"
        handler.write_text(MENDED)
        worker.terminate()
        assert worker.wait() == 0
        worker_process(**place, **settings)
        assert f"{ALL:,} letters" in operator.run(foresee)
        assert operator.run(try_one).startswith("1 letter re-opened and sent again")
        soon(lambda: re.search(r"^status +completed", operator.run(look), re.MULTILINE))

        killed = operator.begin(redrive)
        soon(lambda: letters() < ALL * 3 / 4, 30)
        killed.send_signal(signal.SIGKILL)
        assert killed.communicate()[0] == ""
        assert killed.returncode == -signal.SIGKILL
        half = letters()
        assert 0 < half < ALL - 1
        assert "sent again" in operator.run(redrive)
        assert "No such letters." in operator.run(check)

        for requester in requesters:
            ids = asked[requester.reply_to]
            soon(lambda r=requester, ids=ids: r.process(0.05) or completed(r).keys() == ids, 60)  # type: ignore[misc]
        answers = [body for requester in requesters for body in completed(requester).values()]
    assert len({json.loads(body)["payload"]["session_id"] for body in answers}) == ALL
    assert asyncio.run(sessions(ledger_url)) == ALL
    soon(lambda: not any(rabbitmq.queue_depths(vhost).values()))


def completed(requester: Requester) -> dict[str, bytes]:
    """The new answer to each of a requester's requests; however often it came, its bytes are the same.

    Besides, each has the old one, which was `failed`, once.
    """
    found: dict[str, set[tuple[str, bytes]]] = {}
    for reply in requester.replies:
        document = answer(reply)
        found.setdefault(document["request_id"], set()).add((document["status"], reply.body))
    assert all(sorted(dict(bodies)) in (["completed", "failed"], ["failed"]) for bodies in found.values())
    assert all(len(bodies) <= 2 for bodies in found.values())
    return {id_: dict(bodies)["completed"] for id_, bodies in found.items() if "completed" in dict(bodies)}


async def sessions(ledger_url: str) -> int:
    reader = open_reader(ledger_url)
    await reader.open()
    try:
        return await reader.count_sessions()
    finally:
        await reader.close()
