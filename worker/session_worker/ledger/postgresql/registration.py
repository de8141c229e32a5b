"""Keeps this worker registered in a PostgreSQL ledger, from a thread of its own.

A blocked event loop does not look like a dead worker then, and an idle worker learns that the ledger is away.
"""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future
from contextlib import suppress
from typing import TYPE_CHECKING

from session_client.net.threads import in_own_thread
from session_worker.ledger.postgresql.connection import CLOSE_TIMEOUT, COMMAND_TIMEOUT, connect, hang_up
from session_worker.ledger.postgresql.errors import AWAY, diagnose
from session_worker.ledger.postgresql.statements import EXPEL, LEAVE, OTHERS, RENEW, SWEEP
from session_worker.ledger.protocol import LedgerError
from session_worker.ledger.registration import StandstillWatch
from session_worker.loop import PlainLoop

if TYPE_CHECKING:
    from collections.abc import Callable

    import asyncpg

    from session_worker.ledger.registration import Registration

_RETRY = 0.5
"""Seconds between two tries while the ledger is away: the other workers wait for a short time only."""


class RegistrationKeeper:
    """This worker's row in ``workers``; a thread renews it from ``join`` to ``leave``.

    ``report`` is called in the loop of ``join``: with a reason while renewing keeps failing, with an empty
    one when it succeeds again.
    """

    def __init__(
        self,
        url: str,
        registration: Registration,
        report: Callable[[RegistrationKeeper, str], None],
    ) -> None:
        self._url = url
        self._me = registration
        # A renewal that hangs is given up, and another made, before the others take this worker for gone.
        self._timeout = min(registration.holder_timeout / 4, COMMAND_TIMEOUT)
        self._watch = StandstillWatch(registration)
        self._report = report
        self._thread = threading.Thread(target=self._run, name="ledger register", daemon=True)
        self._joined: Future[None] = Future()
        self._leaving = threading.Event()
        self._home: asyncio.AbstractEventLoop | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._connection: asyncpg.Connection | None = None

    async def join(self) -> None:
        """Register. Raises LedgerError."""
        self._home = asyncio.get_running_loop()
        self._thread.start()
        await asyncio.wrap_future(self._joined)

    async def leave(self) -> None:
        """End this worker's registration and the thread. Bounded in time, also when the ledger is away."""
        self._leaving.set()  # for a thread that has no loop yet
        if self._loop is not None and self._task is not None:
            with suppress(RuntimeError):  # it has ended already
                self._loop.call_soon_threadsafe(self._task.cancel)
        if self._thread.ident is not None:
            await in_own_thread(self._thread.join)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=PlainLoop) as runner:
            runner.run(self._stay())

    async def _stay(self) -> None:
        self._task = asyncio.current_task()
        self._loop = asyncio.get_running_loop()
        if self._leaving.is_set():
            return
        gap = False
        try:
            while True:
                try:
                    await self._renew(gap=gap)
                    if gap:
                        self._tell("")
                    gap = False
                except Exception as error:  # noqa: BLE001 - without it the living worker would look dead
                    self._drop()
                    if gap:  # not only this one connection was lost
                        self._tell(str(diagnose(error, self._url)))
                    gap = True
                    if not self._joined.done():
                        self._joined.set_exception(LedgerError(diagnose(error, self._url)))
                        return
                await asyncio.sleep(_RETRY if gap else self._me.interval)
        except asyncio.CancelledError:
            with suppress(*AWAY):
                await asyncio.wait_for(self._leave(), CLOSE_TIMEOUT)
        finally:
            self._drop()

    async def _renew(self, *, gap: bool) -> None:
        # A worker that is only joining holds nothing yet that could be taken over.
        timeout = self._timeout if self._joined.done() else COMMAND_TIMEOUT
        if self._connection is None:
            self._connection = await connect(
                self._url, timeout=self._timeout if self._joined.done() else None
            )
        await self._connection.execute(
            RENEW, self._me.worker_id, self._me.holder_timeout, gap, timeout=timeout
        )
        rows = await self._connection.fetch(OTHERS, self._me.worker_id, timeout=timeout)
        others = {row[0]: (row[1], row[2]) for row in rows}
        if still := self._watch.still([(name, *other) for name, other in others.items()]):
            renewals = [others[name][0] for name in still]
            await self._connection.execute(EXPEL, still, renewals, timeout=timeout)
        if not self._joined.done():
            await self._connection.execute(SWEEP)
            self._joined.set_result(None)

    def _tell(self, reason: str) -> None:
        with suppress(RuntimeError):  # the loop is closed
            if self._home is not None:
                self._home.call_soon_threadsafe(self._report, self, reason)

    async def _leave(self) -> None:
        if self._connection is not None:
            await self._connection.execute(LEAVE, self._me.worker_id)
            await hang_up(self._connection)

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None
