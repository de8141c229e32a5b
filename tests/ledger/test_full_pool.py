"""No ledger waits for asyncio's pool, which handlers may fill."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from session_worker.ledger import open_ledger, open_pruner, open_reader, upgrade

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


pytestmark = pytest.mark.usefixtures("full_pool")


async def _open_and_close_the_ledger(url: str) -> None:
    ledger = open_ledger(url, worker_id=str(uuid4()), holder_timeout=10)
    await ledger.open()
    await ledger.close()


async def _read(url: str) -> None:
    reader = open_reader(url)
    await reader.open()
    assert await reader.count_sessions() == 0
    await reader.close()


async def _prune(url: str) -> None:
    pruner = open_pruner(url)
    await pruner.open(3600)
    assert await pruner.count() == 0
    await pruner.close()


@pytest.mark.parametrize("work", [_open_and_close_the_ledger, _read, _prune])
async def test_a_ledger_is_used_while_the_pool_is_full(
    ledger_url: str, work: Callable[[str], Awaitable[None]]
) -> None:
    async with asyncio.timeout(20):
        await upgrade(ledger_url)
        await work(ledger_url)
