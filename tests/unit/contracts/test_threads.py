"""What blocks in our own work never waits for asyncio's pool, which handlers may fill."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from yarl import URL

from client import tls
from contracts.threads import in_own_thread

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture(autouse=True)
async def full_pool() -> AsyncIterator[None]:
    """asyncio's pool has one thread, which is taken until the test ends."""
    over = threading.Event()
    pool = ThreadPoolExecutor(1)
    asyncio.get_running_loop().set_default_executor(pool)
    pool.submit(over.wait, 60)
    yield
    over.set()


async def test_a_tls_context_is_made_while_the_pool_is_full() -> None:
    async with asyncio.timeout(20):
        assert await tls.context_for(URL("amqps://host")) is not None


async def test_an_error_in_the_thread_is_raised_where_it_is_awaited() -> None:
    with pytest.raises(ZeroDivisionError):
        await in_own_thread(divmod, 1, 0)
