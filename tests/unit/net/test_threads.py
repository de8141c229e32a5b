"""What blocks in our own work never waits for asyncio's pool, which handlers may fill."""

from __future__ import annotations

import asyncio

import pytest
from yarl import URL

from session_client.net import tls
from session_client.net.threads import in_own_thread

pytestmark = pytest.mark.usefixtures("full_pool")


async def test_a_tls_context_is_made_while_the_pool_is_full() -> None:
    async with asyncio.timeout(20):
        assert await tls.context_for(URL("amqps://host")) is not None


async def test_an_error_in_the_thread_is_raised_where_it_is_awaited() -> None:
    with pytest.raises(ZeroDivisionError):
        await in_own_thread(divmod, 1, 0)
