"""The worker's supervision by itself: what it makes of a link that fails without being lost."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest
from pydantic import SecretStr

from tests.unit.worker import parts
from worker.connection import LinkLostError
from worker.service import Service

if TYPE_CHECKING:
    from collections.abc import Callable

    from worker.link import Link


class HalfDeadLink:
    """The connections stand, but the broker does not answer when consuming is to pause or to go on."""

    def __init__(self, failing: str) -> None:
        self.blocked = True
        self.consuming = True
        self.closed = False
        self._failing = failing

    def watch_blocked(self, watcher: "Callable[[], None]") -> None:
        self._changed = watcher

    async def pause(self) -> None:
        self._answer("pause")
        self.blocked = self.consuming = False
        self._changed()

    async def resume(self) -> None:
        self._answer("resume")

    def _answer(self, asked: str) -> None:
        if asked == self._failing:
            raise LinkLostError("TimeoutError: ")

    async def lost(self) -> str:
        never: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        return await never

    async def close(self) -> None:
        self.closed = True


@pytest.mark.parametrize("failing", ["pause", "resume"])
async def test_link_whose_consuming_cannot_be_switched_is_given_up(failing: str, tmp_path: Path) -> None:
    """Kept, it would not consume again, or go on against the ledger's outage, for as long as it lives."""
    settings = parts.worker_settings(ledger_url=SecretStr(f"sqlite:///{tmp_path}/ledger.db"))
    service = Service(settings, asyncio.Event())
    link = HalfDeadLink(failing)
    async with asyncio.timeout(5):
        await service._stay_linked(cast("Link", link))
    assert link.closed
