"""An app whose resources never come."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from session_worker.operations.app import App
from tests.support.apps.shop import note

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@asynccontextmanager
async def resources() -> AsyncIterator[None]:
    note("waiting")
    await asyncio.Event().wait()
    yield


app = App(lifespan=resources)
