"""`ledger prune` and the retention of a worker."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING
from uuid import UUID

import pytest

from tests.support.ledger import completed, sql, take, worker
from tests.support.waiting import soon

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.acceptance.conftest import Cli
    from tests.support.worker_process import WorkerProcess

OLD = "2026-01-02 03:04:05.000000+00:00"


@pytest.fixture
def filled(ledger_url: str) -> str:
    """The URL of a ledger with three requests that finished long ago and one that did now."""

    async def fill() -> None:
        async with worker(ledger_url) as ledger:
            claims = [await take(ledger) for _ in range(4)]
            for claim in claims:
                await ledger.finish(completed(claim))
        time = OLD.replace(" ", "T")
        await sql(
            ledger_url,
            f"UPDATE requests SET received_at = '{time}', finished_at = '{time}' "
            f"WHERE request_id <> '{claims[0].request_id}'",
        )

    asyncio.run(fill())
    return ledger_url


def ids(url: str) -> set[UUID]:
    return {UUID(str(row[0])) for row in asyncio.run(sql(url, "SELECT request_id FROM requests"))}


def test_prune_counts_then_deletes_then_has_nothing_to_do(cli: Cli, filled: str) -> None:
    """A dry run deletes nothing; sessions stay; no terminal, no bar."""
    prune = ("ledger", "prune", "--older-than", "30d")
    counted = cli(*prune, "--dry-run", ledger_url=filled)
    assert (counted.code, counted.err, len(ids(filled))) == (0, "", 4)
    assert counted.out.startswith("3 requests that finished before 2")
    assert counted.out.endswith("would be deleted.\n")

    (deleted,) = cli(*prune, "--json", ledger_url=filled).documents
    assert (deleted["requests"], deleted["dry_run"], len(ids(filled))) == (3, False, 1)
    assert "finished_before" in deleted
    assert asyncio.run(sql(filled, "SELECT count(*) FROM sessions")) == [(4,)]

    again = cli("ledger", "prune", ledger_url=filled, retention="30d")
    assert (again.code, again.err, again.out[:10]) == (0, "", "0 requests")


@pytest.mark.parametrize(
    ("arguments", "settings", "words"),
    [
        ((), {}, "SESSION_WORKER_RETENTION"),
        (("--older-than", "6d"), {}, "SESSION_WORKER_DEDUPE_WINDOW"),
        (("--older-than", "8d"), {"dedupe_window": "9d"}, "9.0 d"),
        (("--older-than", "a month"), {}, "write 30s, 15m, 1h or 7d"),
        ((), {"retention": "6d"}, "must not be shorter than dedupe_window"),
    ],
)
def test_prune_refuses_what_is_no_age_or_within_the_dedupe_window(
    cli: Cli, sqlite_url: str, arguments: tuple[str, ...], settings: dict[str, str], words: str
) -> None:
    """One sentence, exit code 2, and the ledger is not even looked for."""
    ran = cli("ledger", "prune", *arguments, ledger_url=sqlite_url, **settings)

    assert (ran.code, ran.out) == (2, "")
    assert words in " ".join(ran.err.split())


def test_a_worker_with_a_retention_prunes_by_itself(
    worker_process: Callable[..., WorkerProcess], amqp_url: str, filled: str
) -> None:
    """From its start on."""
    worker_process(amqp_url=amqp_url, ledger_url=filled, retention="30d")

    assert soon(lambda: len(ids(filled)) == 1)
