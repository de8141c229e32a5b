"""Group commit: the steps that wait at the same time share one transaction.

While one transaction is in flight, the next batch gathers; a lone step starts at once. There is no timer.
Steps for which nobody waits (notes) come many at a time: a few of them go along with each batch of others, so
that they hold nobody up. A batch has at most one step of each request; a second one waits for the next batch.
It is sorted by request id, so that the overlapping batches of two workers take their locks in one order. What
needs a row that somebody else holds for long waits beside the batches, until the row is free.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from session_worker.ledger.protocol import LedgerError, LockedError, UnstorableError
from session_worker.telemetry.events import LedgerCommitted, unheard

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
    from uuid import UUID

    from session_worker.telemetry.events import Emit

MAX_BATCH = 500
"""The most steps with a caller in one batch. Bounds what a failure repeats, and how long the first waits."""

LOCKED_PAUSE = 0.1
"""Seconds between two looks at whether what was locked is free."""


class HasRequestId(Protocol):
    @property
    def request_id(self) -> UUID: ...


StepT = TypeVar("StepT", bound=HasRequestId)
AnswerT = TypeVar("AnswerT")
_Item = tuple[StepT, asyncio.Future[AnswerT] | None]
"""A step, and where its caller waits for the answer; None where nobody does."""


class GroupCommit(Generic[StepT, AnswerT]):
    """Turns single steps into batches for ``commit``, and its answers into single answers.

    ``commit`` takes a batch, makes it durable and returns one answer for each step, in order. It waits while
    the ledger is away, and raises LedgerError if the ledger is closed meanwhile. After any other error the
    batch is halved until only the culprit fails; steps that are committed a second time know it by their
    tokens. ``abandoned`` is told how a step ended whose caller was cancelled meanwhile. A batch takes as many
    notes as other steps, but at least ``min_notes``. When ``commit`` raises LockedError, ``locked`` says the
    requests of which of its steps wait for somebody, without waiting itself.
    """

    def __init__(
        self,
        commit: Callable[[Sequence[StepT]], Awaitable[Sequence[AnswerT]]],
        abandoned: Callable[[StepT, AnswerT], None] | None = None,
        emit: Emit = unheard,
        min_notes: int = MAX_BATCH,
        locked: Callable[[Sequence[StepT]], Awaitable[Collection[UUID]]] | None = None,
    ) -> None:
        self._commit = commit
        self._locked = locked
        self._beside: list[_Item[StepT, AnswerT]] = []
        self._watcher: asyncio.Task[None] | None = None
        self._min_notes = min_notes
        self._abandoned = abandoned
        self._emit = emit
        self._waiting: deque[_Item[StepT, AnswerT]] = deque()
        self._notes: deque[_Item[StepT, AnswerT]] = deque()
        self._worker: asyncio.Task[None] | None = None
        self._closed = False

    async def do(self, step: StepT) -> AnswerT:
        """Commit ``step`` with others. To cancel the caller breaks neither the batch nor the step itself.

        Raises:
            UnstorableError: the database cannot store the data of this step.
            LedgerError: the ledger was closed first.
        """
        if self._closed:
            raise LedgerError("the ledger is closed")
        answer: asyncio.Future[AnswerT] = asyncio.get_running_loop().create_future()
        self._waiting.append((step, answer))
        self._start()
        try:
            return await answer
        except asyncio.CancelledError:
            # The answer may have been set already, and the cancellation have overtaken it.
            if answer.done() and not answer.cancelled() and answer.exception() is None:
                self._abandon(step, answer.result())
            raise

    def note(self, step: StepT) -> None:
        """Commit ``step`` if there is time. Nobody waits for it or hears whether it was."""
        if not self._closed or self._worker is not None:
            self._notes.append((step, None))
            self._start()

    async def close(self, timeout: float) -> None:
        """Commit what waits, for at most ``timeout`` seconds; fail what is left with LedgerError."""
        self._closed = True
        end = time.monotonic() + timeout
        while (tasks := {task for task in (self._worker, self._watcher) if task}) and time.monotonic() < end:
            await asyncio.wait(tasks, timeout=end - time.monotonic())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        self._drop(self._waiting)

    def _start(self) -> None:
        if self._worker is None:
            self._worker = asyncio.create_task(self._work(), name="ledger group commit")

    async def _work(self) -> None:
        batch: list[_Item[StepT, AnswerT]] = []
        try:
            while self._waiting or self._notes:
                batch = self._next_batch()
                await self._commit_batch(batch)
                batch = []
        finally:
            self._worker = None
            self._drop(batch)

    def _drop(self, items: Iterable[_Item[StepT, AnswerT]]) -> None:
        for _, answer in items:
            if answer is not None and not answer.done():
                answer.set_exception(LedgerError("the ledger was closed before this could be written"))

    def _next_batch(self) -> list[_Item[StepT, AnswerT]]:
        batch: dict[int, _Item[StepT, AnswerT]] = {}
        _move(self._waiting, batch, MAX_BATCH)
        _move(self._notes, batch, len(batch) + max(len(batch), self._min_notes))
        return [batch[key] for key in sorted(batch)]

    async def _commit_batch(self, batch: list[_Item[StepT, AnswerT]]) -> None:
        began = time.monotonic()
        try:
            answers = await self._commit([step for step, _ in batch])
        except LockedError:
            await self._leave_out_locked(batch)
        except Exception as error:  # noqa: BLE001 -- the callers must hear of it, and the next batch must run
            await self._find_culprit(batch, error)
        else:
            self._emit(LedgerCommitted(len(batch), round(time.monotonic() - began, 6)))
            for (step, caller), given in zip(batch, answers, strict=True):
                if caller is not None and not caller.done():
                    caller.set_result(given)
                elif caller is not None:
                    self._abandon(step, given)

    def _abandon(self, step: StepT, answer: AnswerT) -> None:
        if self._abandoned is not None:
            self._abandoned(step, answer)

    async def _leave_out_locked(self, batch: list[_Item[StepT, AnswerT]]) -> None:
        """Commit what is free; what is not waits beside."""
        locked = await self._find_locked(batch)
        free = [item for item in batch if item[0].request_id not in locked]
        if len(free) == len(batch) > 1:  # who holds it is not to be seen yet, or has let go
            await self._commit_halves(batch)
            return
        self._beside += [item for item in batch if item[0].request_id in locked] or batch
        if self._watcher is None:
            self._watcher = asyncio.create_task(self._watch(), name="ledger locks")
        if len(free) < len(batch) and free:
            await self._commit_batch(free)

    async def _find_locked(self, batch: list[_Item[StepT, AnswerT]]) -> Collection[UUID]:
        steps = [step for step, _ in batch]
        try:
            return await self._locked(steps) if self._locked else ()
        except LockedError:  # the table
            return {step.request_id for step in steps}

    async def _watch(self) -> None:
        """Bring back what waits beside, when it is free."""
        looked_at: list[_Item[StepT, AnswerT]] = []
        try:
            while self._beside:
                await asyncio.sleep(LOCKED_PAUSE)
                looked_at, self._beside = self._beside, []
                locked = await self._find_locked(looked_at)
                for item in looked_at:
                    (self._beside if item[0].request_id in locked else self._waiting).append(item)
                looked_at = []
                if self._waiting:
                    self._start()
        finally:
            self._watcher = None
            self._drop([*looked_at, *self._beside])

    async def _commit_halves(self, batch: list[_Item[StepT, AnswerT]]) -> None:
        middle = len(batch) // 2
        await self._commit_batch(batch[:middle])
        await self._commit_batch(batch[middle:])

    async def _find_culprit(self, batch: list[_Item[StepT, AnswerT]], error: Exception) -> None:
        if len(batch) > 1 and not isinstance(error, LedgerError):
            await self._commit_halves(batch)
            return
        for step, answer in batch:
            if answer is not None and not answer.done():
                answer.set_exception(_about(step, error) if isinstance(error, UnstorableError) else error)


def _about(step: HasRequestId, error: UnstorableError) -> UnstorableError:
    about = UnstorableError(f"the ledger cannot store the data of request {step.request_id}: {error}")
    about.__cause__ = error
    return about


def _move(queue: deque[_Item[StepT, AnswerT]], batch: dict[int, _Item[StepT, AnswerT]], limit: int) -> None:
    """Move to ``batch``, until it has ``limit``, the first step of each request that is not in it."""
    later = []
    while queue and len(batch) < limit:
        item = queue.popleft()
        key = item[0].request_id.int
        if key in batch:
            later.append(item)
        else:
            batch[key] = item
    queue.extendleft(reversed(later))
