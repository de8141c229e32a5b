"""One attempt: call the handler, with immediate retries, until it returns, rejects or fails."""

from __future__ import annotations

import asyncio
import asyncio.threads
import concurrent.futures.thread
import traceback
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from session_contracts import ErrorCode
from session_worker.messages.identifiers import storable
from session_worker.operations import binding
from session_worker.operations.handler import Rejected, RetryLater
from session_worker.requests import results, retry
from session_worker.requests.results import InvalidResultError, read_result
from session_worker.requests.timing import current_timing
from session_worker.telemetry import plain_values
from session_worker.telemetry.trace import current_trace

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from types import CodeType, FrameType, TracebackType

    from session_contracts import BaseRequest
    from session_worker.operations.binding import Binding
    from session_worker.operations.handler import Context
    from session_worker.requests.results import Success

MAX_STACKTRACE = 8_192
MAX_FRAMES = 3
_OURS = frozenset({__file__, results.__file__, binding.__file__})
_THREADS = frozenset({asyncio.threads.__file__, concurrent.futures.thread.__file__})
"""Of the way to a plain function, which runs in a thread."""
TASK = "handler of a request"
"""The name of each handler's task, which may outlive its attempt."""
CANCEL_SECONDS = 3.0
"""How long a handler that was cut off may clean up before the worker goes on without it. A shutdown leaves
more time than this for handing back, so that a handler that never ends is handed back too."""


@dataclass(frozen=True, slots=True)
class Failure:
    """The attempt failed. ``error`` is for the log and the parked copy, never for the requester. ``after``:
    seconds until the next attempt, if the handler has said."""

    code: ErrorCode
    error: BaseException
    transient: bool
    after: float | None = None

    @property
    def message(self) -> str:
        return storable(plain_values.title(self.error))

    @property
    def detail(self) -> str:
        """The message and the innermost frames, for the history, which has no room for a stack trace."""
        places = (_place(frame.f_code, line) for frame, line in reversed(_innermost(self.error)))
        return storable("; ".join((self.message, *places)), 2000)

    @property
    def stacktrace(self) -> str:
        return storable(plain_values.stack_trace(self.error)[-MAX_STACKTRACE:], MAX_STACKTRACE)


async def run(
    bound: Binding, request: BaseRequest[Any], context: Context[Any], timeout: float
) -> Success | Failure | Rejected:
    """Run one attempt of at most ``timeout`` seconds.

    The handler runs in a task of its own. If it cancels that task or leaves it by ``SystemExit``, the attempt
    fails and nothing else. When the caller is cancelled, the handler is cancelled with it.

    What is built in asks the ledger at the most: it needs no task, and waits for it as long as all steps do.
    """
    if bound.built_in:
        return await _call(bound, request, context)
    loop = asyncio.get_running_loop()
    task = loop.create_task(_call(bound, request, context), name=TASK)
    # This is asyncio.wait for one task, at a third of the price.
    over = loop.create_future()
    timer = current_timing.get().call_later(timeout, lambda: _set(over))
    task.add_done_callback(lambda _: _set(over))
    try:
        await over
    except asyncio.CancelledError:
        await _cut_off(task)
        raise
    finally:
        timer.cancel()
    if not task.done():
        error = TimeoutError(f"no result within {timeout:g} s")
        error.__cause__ = await _cut_off(task)
        return Failure(ErrorCode.HANDLER_TIMEOUT, error, transient=True)
    if task.cancelled():
        return Failure(
            ErrorCode.HANDLER_FAILED, asyncio.CancelledError("the handler cancelled itself"), transient=True
        )
    return task.result()


async def _call(
    bound: Binding, request: BaseRequest[Any], context: Context[Any]
) -> Success | Failure | Rejected:
    current_trace.get().enter()

    failed: list[Exception] = []

    async def again() -> Success | Rejected:
        # The first try was made already, without tenacity: most succeed at once.
        if failed:
            raise failed.pop()
        return await _once(bound, request, context)

    try:
        try:
            return await _once(bound, request, context)
        except Exception as error:  # noqa: BLE001 - what is worth another try is decided in retry.py
            failed.append(error)
        return await _tried(again)
    except Rejected as rejected:
        return rejected
    except InvalidResultError as error:
        return Failure(ErrorCode.HANDLER_RESULT_INVALID, error, transient=False)
    except RetryLater as later:
        return Failure(ErrorCode.HANDLER_FAILED, later, transient=True, after=later.after)
    except asyncio.CancelledError:
        raise
    except BaseException as error:  # noqa: BLE001 - SystemExit too is the handler's failure, not the worker's end
        return Failure(ErrorCode.HANDLER_FAILED, error, transient=retry.is_transient(error))


async def _once(bound: Binding, request: BaseRequest[Any], context: Context[Any]) -> Success | Rejected:
    try:
        return read_result(bound, await bound.handler(request, context))
    except ExceptionGroup as group:
        if rejection := _rejection(group):
            return rejection
        raise


def _rejection(group: ExceptionGroup[Exception]) -> Rejected | None:
    """Return the rejection of a group that holds nothing else, which is what a handler's TaskGroup makes of
    one."""
    rejections, others = group.split(Rejected)
    found: Any = rejections
    while isinstance(found, ExceptionGroup):
        found = found.exceptions[0]
    return None if others else found


async def _tried(call: Callable[[], Awaitable[Success | Rejected]]) -> Success | Rejected:
    try:
        return await retry.immediate()(call)
    except BaseException as error:
        _release(error)
        raise


def _release(error: BaseException) -> None:
    """Leave the error only the handler's own frames.

    Tenacity's frames and the error hold each other, and with them all of the request, until the collector
    searches for cycles. The handler's frames lead back to those of their callers.
    """
    frames, error.__traceback__ = error.__traceback__, _beyond_this_file(error.__traceback__)
    while frames is not error.__traceback__ and frames is not None:
        with suppress(RuntimeError):  # some still run
            frames.tb_frame.clear()
        frames = frames.tb_next


def _place(code: CodeType, line: int) -> str:
    file = "/".join(Path(code.co_filename).parts[-2:])
    return f"in {code.co_name[:80]} ({file[-120:]}:{line})"


def _innermost(error: BaseException) -> list[tuple[FrameType, int]]:
    """Return where the error, or the one it stands for, was raised: frames and lines, the innermost last."""
    while isinstance(error, BaseExceptionGroup) and error.exceptions[0].__traceback__ is not None:
        error = error.exceptions[0]
    if _beyond_this_file(error.__traceback__) is None and error.__cause__ is not None:
        error = error.__cause__
    return list(traceback.walk_tb(_beyond_this_file(error.__traceback__)))[-MAX_FRAMES:]


def _beyond_this_file(frames: TracebackType | None) -> TracebackType | None:
    """Return the handler's own frames, those that tell why."""
    beyond = frames
    while frames is not None:
        if frames.tb_frame.f_code.co_filename in _OURS:
            beyond = frames.tb_next
            if frames.tb_frame.f_code.co_filename == binding.__file__:
                while beyond is not None and beyond.tb_frame.f_code.co_filename in _THREADS:
                    beyond = beyond.tb_next
        frames = frames.tb_next
    return beyond


def _set(over: asyncio.Future[None]) -> None:
    if not over.done():
        over.set_result(None)


async def _cut_off(task: asyncio.Task[Success | Failure | Rejected]) -> BaseException | None:
    """End the attempt. The traceback of the error, if there is one, says where the handler was."""
    task.cancel()
    await asyncio.wait({task}, timeout=CANCEL_SECONDS)
    if not task.done():
        task.add_done_callback(_ignore)
        return None
    try:
        result = task.result()
    except asyncio.CancelledError as cancelled:
        cancelled.__traceback__ = _beyond_this_file(cancelled.__traceback__)
        return cancelled
    return result.error if isinstance(result, Failure) else None


def _ignore(task: asyncio.Task[Any]) -> None:
    if not task.cancelled():
        task.exception()
