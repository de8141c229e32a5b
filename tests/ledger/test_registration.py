"""A worker keeps its place in the register of a PostgreSQL ledger."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

from session_worker.ledger import open_ledger, upgrade
from session_worker.ledger.postgresql import ledger as postgresql
from session_worker.ledger.postgresql.registration import RegistrationKeeper
from session_worker.ledger.protocol import NotNow, StepResult
from tests.support.ledger import DEADLINE, a_claim, completed, sql, take, worker
from tests.support.tcp_proxy import TcpProxy
from tests.support.waiting import eventually

if TYPE_CHECKING:
    import pytest


async def test_nothing_is_taken_from_a_living_worker_whose_renewal_hangs(
    postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network swallows what the register's connection carries, and that alone: a new one is made and used
    before the last renewal has run out."""
    others = worker(postgresql_url, "other", holder_timeout=1000)
    async with asyncio.timeout(DEADLINE), TcpProxy(postgresql_url) as proxy, others as other:

        def by_the_proxy(_: str, *rest: Any) -> RegistrationKeeper:
            return RegistrationKeeper(proxy.url, *rest)

        monkeypatch.setattr(postgresql, "RegistrationKeeper", by_the_proxy)
        async with worker(postgresql_url, "me", holder_timeout=4) as me:
            claim = await take(me)
            proxy.swallow()
            ((gone_at,),) = await sql(postgresql_url, "SELECT gone_at FROM workers WHERE worker_id = 'me'")
            while not (await sql(postgresql_url, f"SELECT now() > '{gone_at}'::timestamptz"))[0][0]:
                await asyncio.sleep(0.1)
            assert isinstance(await other.claim(a_claim(claim.request_id)), NotNow)
            assert await me.finish(completed(claim)) is StepResult.APPLIED
    assert await sql(postgresql_url, "SELECT attempt, crashes FROM requests") == [(1, 0)]


async def test_a_worker_that_is_stopped_while_it_joins_leaves_at_once(
    postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The register's thread has started and has no event loop yet: it ends all the same."""
    await upgrade(postgresql_url)
    let_run, run = threading.Event(), RegistrationKeeper._run

    def later(register: RegistrationKeeper) -> None:
        let_run.wait()
        run(register)

    monkeypatch.setattr(RegistrationKeeper, "_run", later)
    ledger = open_ledger(postgresql_url, worker_id="me", holder_timeout=15)
    assert isinstance(ledger, postgresql.PostgreSQLLedger)
    opening = asyncio.create_task(ledger.open())
    await eventually(lambda: ledger._registration._thread.ident is not None)
    opening.cancel()
    await eventually(ledger._registration._leaving.is_set)
    let_run.set()
    async with asyncio.timeout(DEADLINE):
        await asyncio.wait({opening})
    assert opening.cancelled()
    assert await sql(postgresql_url, "SELECT count(*) FROM workers") == [(0,)]
