"""`status` and `requests`: what became of it."""

from __future__ import annotations

import asyncio
import re
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

import pytest

from session_client import RequestFailed, SessionClient
from session_worker.ledger import open_reader

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.acceptance.conftest import Cli
    from tests.support.worker_process import WorkerProcess

FIELDS = (
    "request_id, operation, status, attempt, session_id, user_id, casefile_id, title, error_code, error, "
    "reply, received_at, finished_at, next_attempt_at, history"
)
HANDLER = """
from session_worker.operations.handler import Rejected

async def handle(request, context):
    if request.user_id == "nobody":
        raise Rejected("nobody may not", code="nobody")
    if context.attempt == 1 and request.user_id == "flaky":
        raise ConnectionError("the other side is away")
"""


@pytest.fixture
def ask(
    worker_process: Callable[..., WorkerProcess],
    amqp_url: str,
    ledger_url: str,
    tmp_path: Path,
) -> Callable[[str], str]:
    """Has a worker answer a request of a user, and returns the request's id once the ledger says that the
    reply was sent, which is noted a little later: what is read of the entry does not change any more then."""
    (tmp_path / "their_handler.py").write_text(HANDLER)
    worker_process(
        amqp_url=amqp_url,
        ledger_url=ledger_url,
        handler="their_handler:handle",
        retry_delays="1",
    )

    async def send(user: str) -> str:
        request_id = str(uuid4())
        async with SessionClient(amqp_url) as client:
            with suppress(RequestFailed):
                await client.create_session(user_id=user, title=f"Of {user}", request_id=request_id)
        reader = open_reader(ledger_url)
        await reader.open()
        try:
            while (entry := await reader.get(UUID(request_id))) is None or entry.reply is None:
                await asyncio.sleep(0.02)
        finally:
            await reader.close()
        return request_id

    return lambda user: asyncio.run(send(user))


def test_status_shows_every_move_of_a_request(cli: Cli, ask: Callable[[str], str], ledger_url: str) -> None:
    """A request that failed once and then succeeded: its moves in order, with attempts, times and reason."""
    request_id = ask("flaky")

    (entry,) = cli("status", request_id, "--json", ledger_url=ledger_url).documents
    shown = cli("status", request_id, ledger_url=ledger_url)

    moves = [(move["status"], move["attempt"]) for move in entry["history"]]
    times = [datetime.fromisoformat(move["at"]) for move in entry["history"]]
    assert ", ".join(entry) == FIELDS
    assert moves == [("pending", 0), ("processing", 1), ("pending", 1), ("processing", 2), ("completed", 2)]
    assert times == sorted(times)
    assert (entry["status"], entry["attempt"], entry["next_attempt_at"]) == ("completed", 2, None)
    assert all(set(move) == {"status", "at", "attempt", "worker_id", "detail"} for move in entry["history"])
    assert shown.code == 0
    assert "ConnectionError: the other side is away" in shown.out
    assert entry["session_id"] in shown.out
    assert entry["title"] == "Of flaky"
    assert re.search("^title +Of flaky$", shown.out, re.MULTILINE)


def test_status_finds_a_request_by_the_session_that_it_created(
    cli: Cli, ask: Callable[[str], str], ledger_url: str
) -> None:
    request_id = ask("ada")
    (entry,) = cli("status", request_id, "--json", ledger_url=ledger_url).documents

    found = cli("status", entry["session_id"], "--json", ledger_url=ledger_url)
    unknown = cli("status", "ts_251013_nowhere", ledger_url=ledger_url)

    assert found.documents == [entry]
    assert (unknown.code, unknown.out) == (1, "unknown\n")


def test_an_unknown_request_is_unknown_and_not_pending(cli: Cli, sqlite_url: str) -> None:
    """So is one that only read, which the notice says."""
    cli("ledger", "upgrade", ledger_url=sqlite_url)
    request_id = str(uuid4())

    shown = cli("status", request_id, ledger_url=sqlite_url)
    as_json = cli("status", request_id, "--json", ledger_url=sqlite_url)

    assert shown.code == as_json.code == 1
    assert shown.out == "unknown\n"
    assert as_json.documents == [{"request_id": request_id, "status": "unknown"}]
    assert "a read leaves no entry" in shown.err


def test_requests_are_filtered_by_status_age_and_number(
    cli: Cli, ask: Callable[[str], str], ledger_url: str
) -> None:
    """The newest come first; a rejected one is found by its status, and shown with its code."""
    first, second, rejected = ask("ada"), ask("grace"), ask("nobody")

    def found(*options: object) -> list[str]:
        ran = cli("requests", "--json", *options, ledger_url=ledger_url)
        assert ran.code == 0
        return [document["request_id"] for document in ran.documents]

    assert found("--status", "completed") == [second, first]
    assert found("--status", "failed", "--since", "1h") == [rejected]
    assert found("--limit", 1) == [rejected]
    assert found("--user", "ada") == [first]
    assert found("--code", "rejected") == [rejected]
    assert found("--operation", "create_session", "--user", "ada") == [first]
    assert found("--operation", "close_session") == []
    assert found("--undeliverable") == []
    assert found("--since", "0.001s") == []
    table = cli("requests", ledger_url=ledger_url).out
    assert all(request_id in table for request_id in (first, second, rejected))
    assert "failed: rejected" in table
    assert "nobody may not" in table
