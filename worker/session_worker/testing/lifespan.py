"""The lifespan of an app under test."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@asynccontextmanager
async def in_own_task(lifespan: AbstractAsyncContextManager[Any]) -> AsyncIterator[Any]:
    """``lifespan``, entered and left by one task, as in a worker. A fixture has two, for its set-up and for
    its teardown, and the second could not leave a task group that the first has entered."""
    made: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    over = asyncio.Event()

    async def live() -> None:
        async with lifespan as resources:
            made.set_result(resources)
            await over.wait()

    living = asyncio.create_task(live(), name="lifespan")
    try:
        await asyncio.wait({made, living}, return_when=asyncio.FIRST_COMPLETED)
        if not made.done():
            await living
        yield made.result()
    except BaseException:
        living.cancel()
        await asyncio.wait({living})
        raise
    over.set()
    await living
