"""One attempt of a handler: whatever the handler does, it ends in a value and in time."""

import asyncio
import gc
import json
import re
import weakref
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any, cast
from uuid import UUID, uuid4

import pydantic
import pytest
import tenacity
from hypothesis import given
from hypothesis import strategies as st

from session_contracts import CreateSessionRequest, ErrorCode
from session_worker.operations.built_in import CREATE
from session_worker.operations.handler import AnyHandler, Context, PermanentError, Rejected
from session_worker.requests import attempt, retry
from session_worker.requests.attempt import Failure
from session_worker.requests.response import ResponseBuilder
from session_worker.requests.results import OUR_FACTS, Success
from tests.support import parts


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Immediate retries do not wait, and a handler that does not leave is given up soon."""
    made = retry.immediate
    monkeypatch.setattr(retry, "immediate", lambda: made().copy(wait=tenacity.wait_none()))
    monkeypatch.setattr(attempt, "CANCEL_SECONDS", 0.02)


async def _run(handler: AnyHandler, timeout: float = 5.0) -> Success | Failure | Rejected:
    return await attempt.run(parts.hooked(handler), parts.model(), parts.context(), timeout)


def _returning(value: object) -> AnyHandler:
    async def handle(request: CreateSessionRequest, context: Context) -> Any:
        return value

    return handle


def _raising(error: BaseException, calls: list[int] | None = None) -> AnyHandler:
    async def handle(request: CreateSessionRequest, context: Context) -> None:
        if calls is not None:
            calls.append(1)
        raise error

    return handle


async def _failure(handler: AnyHandler, timeout: float = 5.0) -> Failure:
    result = await _run(handler, timeout)
    assert isinstance(result, Failure)
    return result


async def test_rejection_in_a_task_group_is_one() -> None:
    """A group with anything else in it is a failure."""

    async def handle(request: CreateSessionRequest, context: Context) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(asyncio.sleep(10))
            async with asyncio.TaskGroup() as inner:
                inner.create_task(_raising(Rejected("no rooms", code="full"))(request, context))  # type: ignore[arg-type]

    result = await _run(handle)
    assert isinstance(result, Rejected)
    assert (result.message, result.code) == ("no rooms", "full")
    mixed = ExceptionGroup("two", [Rejected("no"), ValueError("x")])
    assert (await _failure(_raising(mixed))).error is mixed


async def test_group_that_fails_keeps_its_cause() -> None:
    """Whoever looks at the parked copy sees what led to it."""

    async def handle(request: CreateSessionRequest, context: Context) -> None:
        raise ExceptionGroup("two", [ValueError("x")]) from KeyError("the reason")

    assert "KeyError: 'the reason'" in (await _failure(handle)).stacktrace


@pytest.mark.parametrize(
    "error",
    [
        ValueError,
        PermanentError,
        Rejected,
        SystemExit,
        lambda text: ExceptionGroup(text, [ValueError(text)]),
        lambda text: ExceptionGroup(text, [Rejected(text)]),
    ],
)
async def test_a_failed_attempt_leaves_nothing_to_the_collector(
    error: Callable[[str], BaseException],
) -> None:
    """It rarely looks: a thousand large requests that failed would stay until then."""

    async def handler(request: CreateSessionRequest, context: Context) -> None:
        raise error("each time another one")

    request = parts.model()
    remembered = weakref.ref(request)
    gc.collect()
    gc.disable()
    try:
        result = await attempt.run(parts.hooked(handler), request, parts.context(), 5.0)
        assert isinstance(result, Failure | Rejected)
        if isinstance(result, Failure):
            assert __file__ in result.stacktrace
            assert tenacity.__file__ not in result.stacktrace
        del request, result
        await asyncio.sleep(0)
        assert remembered() is None
    finally:
        gc.enable()


# ------------------------------------------------------------------------------------ what it returns


async def test_returning_none_adds_nothing_to_the_answer() -> None:
    assert await _run(_returning(None)) == Success(None, {})


class Place(pydantic.BaseModel):
    room: int


async def test_rich_values_become_what_they_read_as_in_json() -> None:
    result = await _run(
        _returning(
            {
                "at": datetime(2026, 1, 2, tzinfo=UTC),
                "id": UUID(int=7),
                "place": Place(room=3),
                "pair": (1, 2.5),
                "none": None,
                "text": "ä",
            }
        )
    )
    assert result == Success(
        None,
        {
            "at": "2026-01-02T00:00:00Z",
            "id": "00000000-0000-0000-0000-000000000007",
            "place": {"room": 3},
            "pair": [1, 2.5],
            "none": None,
            "text": "ä",
        },
    )


def _circle() -> dict[str, Any]:
    circle: dict[str, Any] = {}
    circle["self"] = circle
    return circle


def _nested(depth: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(depth - 1):
        value = {"in": value}
    return value


UNFIT = {
    "text": "done",
    "list": [1],
    "model": Place(room=1),
    "number as key": {1: "one"},
    "NaN": {"a": float("nan")},
    "infinite": {"a": [float("-inf")]},
    "surrogate": {"a": "\ud800"},
    "surrogate in a key": {"\ud800": 1},
    "circle": _circle(),
    "object": {"a": object()},
    "bytes that are no text": {"a": b"\xff"},
    "thousands deep": _nested(5000),
    "deeper than an answer may be": _nested(17),
    "NUL": {"a": "\0"},
    "NUL in a key": {"a\0": 1},
    "long key": {"k" * 257: 1},
    "long string": {"a": "x" * 16_385},
    "too many bytes": {str(n): "x" * 16_000 for n in range(5)},
    "too many values": {"a": list(range(1000))},
    "as many values as fit without ours": {str(n): n for n in range(999)},
    "number beyond 64 bits": {"a": 2**63},
    "number of thousands of digits": {"a": 10**5000},
}


@pytest.mark.parametrize("value", UNFIT.values(), ids=UNFIT)
async def test_result_that_no_answer_can_hold_is_the_handlers_lasting_failure(value: object) -> None:
    failure = await _failure(_returning(value))
    assert (failure.code, failure.transient) == (ErrorCode.HANDLER_RESULT_INVALID, False)
    assert "result" in failure.message or "return" in failure.message
    assert len(failure.message) <= 1000


async def test_unfit_result_is_not_asked_for_again() -> None:
    """The handler has done its work: calling it again would do it twice for the same result."""
    calls: list[int] = []

    async def handle(request: CreateSessionRequest, context: Context) -> Any:
        calls.append(1)
        return "text"

    await _failure(handle)
    assert calls == [1]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=30,
)


@given(value=st.dictionaries(st.text(st.characters(), max_size=5), JSON, max_size=5))
def test_what_an_attempt_lets_pass_fits_into_an_answer(value: dict[str, Any]) -> None:
    """No result can make the building of the answer fail after the work was done."""
    result = asyncio.run(_run(_returning(value)))
    if isinstance(result, Success):
        request = parts.request()
        body = ResponseBuilder("w", CREATE).completed(request, parts.claimed(), result, 0.1)
        answer = json.loads(body)
        assert answer["metadata"] == result.metadata | {name: answer["metadata"][name] for name in OUR_FACTS}
    else:
        assert isinstance(result, Failure)
        assert result.code is ErrorCode.HANDLER_RESULT_INVALID


# ------------------------------------------------------------------------------------- what it raises


async def test_passing_failure_is_tried_again_at_once_and_forgotten() -> None:
    calls: list[int] = []

    async def handle(request: CreateSessionRequest, context: Context) -> dict[str, Any]:
        calls.append(context.attempt)
        if len(calls) < 3:
            raise OSError("reset")
        return {"tries": len(calls)}

    assert await _run(handle) == Success(None, {"tries": 3})
    assert calls == [1, 1, 1]


async def test_lasting_failure_is_reported_with_type_message_and_place() -> None:
    failure = await _failure(_raising(ValueError("the room is gone")))
    assert (failure.code, failure.transient) == (ErrorCode.HANDLER_FAILED, True)
    assert failure.message == "ValueError: the room is gone"
    assert "in handle" in failure.stacktrace


def _outer(error: BaseException) -> AnyHandler:
    async def inner() -> None:
        raise error

    async def handle(request: CreateSessionRequest, context: Context) -> None:
        await inner()

    return handle


@pytest.mark.parametrize("wrap", [lambda error: error, lambda error: ExceptionGroup("one", [error])])
async def test_detail_names_the_error_and_the_innermost_places(
    wrap: Callable[[ValueError], Exception],
) -> None:
    """A group stands for its first error: its own places say less."""

    async def handle(request: CreateSessionRequest, context: Context) -> None:
        try:
            await _outer(ValueError("the room is gone"))(request, context)
        except ValueError as error:
            raise wrap(error) from None

    failure = await _failure(handle)
    places = "in inner (requests/test_attempt.py:N); in handle (requests/test_attempt.py:N)"
    assert re.sub(r":\d+", ":N", failure.detail).startswith(f"{failure.message}; {places}")


@pytest.mark.parametrize(
    "error", [ExceptionGroup("never raised", [ValueError()]), StopIteration()], ids=["group", "cause"]
)
async def test_detail_names_a_place_also_of_an_error_that_stands_for_another(error: Exception) -> None:
    """Python makes a RuntimeError of a StopIteration, with no place in the handler."""
    failure = await _failure(_raising(error))
    assert "in handle (" in failure.detail


async def test_detail_is_bounded_however_long_names_and_message_are() -> None:
    scope: dict[str, Any] = {"error": ValueError("x" * 5000)}
    name = "f" * 5000
    exec(compile(f"def {name}():\n  raise error", "/x" * 5000, "exec"), scope)

    async def handle(request: CreateSessionRequest, context: Context) -> None:
        scope[name]()

    failure = await _failure(handle)
    assert f"in {'f' * 80} (" in failure.detail
    assert len(failure.detail) < 2000


async def test_invalid_result_has_no_place_in_the_handler() -> None:
    failure = await _failure(_returning("text"))
    assert failure.detail == failure.message


@pytest.mark.parametrize("then", ["leave", "fail"])
async def test_handler_that_is_cut_off_tells_where_it_was(then: str) -> None:
    async def waits_for_ever() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if then == "fail":
                raise RuntimeError("in other words") from None
            raise

    async def handle(request: CreateSessionRequest, context: Context) -> None:
        await waits_for_ever()

    failure = await _failure(handle, timeout=0.01)
    assert failure.code is ErrorCode.HANDLER_TIMEOUT
    assert failure.message == "TimeoutError: no result within 0.01 s"
    assert "in waits_for_ever" in failure.stacktrace
    assert "in waits_for_ever (requests/test_attempt.py:" in failure.detail


async def test_rejection_is_an_answer_and_given_once() -> None:
    calls: list[int] = []
    rejected = await _run(_raising(Rejected("no rooms", code="full"), calls))
    assert isinstance(rejected, Rejected)
    assert (rejected.message, rejected.code) == ("no rooms", "full")
    assert calls == [1]


async def test_permanent_error_ends_the_attempt_for_good() -> None:
    calls: list[int] = []
    failure = await _failure(_raising(PermanentError("never"), calls))
    assert (failure.code, failure.transient, calls) == (ErrorCode.HANDLER_FAILED, False, [1])


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit()], ids=repr)
async def test_system_exit_in_a_handler_fails_the_attempt_and_not_the_worker(error: BaseException) -> None:
    failure = await _failure(_raising(error))
    assert failure.code is ErrorCode.HANDLER_FAILED
    assert type(error).__name__ in failure.message


class MuteError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("not even that")


async def test_error_that_cannot_be_printed_still_has_a_name() -> None:
    failure = await _failure(_raising(MuteError()))
    assert "MuteError" in failure.message
    assert "MuteError" in failure.stacktrace


@pytest.mark.parametrize("raised", [RuntimeError("no"), KeyboardInterrupt()], ids=repr)
@pytest.mark.parametrize("name", ["__notes__", "__cause__"])
async def test_error_whose_parts_cannot_be_read_fails_its_attempt_alone(
    name: str, raised: BaseException
) -> None:
    def read(_: object) -> Any:
        raise raised

    failure = await _failure(_raising(type("OddError", (Exception,), {name: property(read)})()))

    assert failure.code is ErrorCode.HANDLER_FAILED
    for text in (failure.message, failure.detail, failure.stacktrace):
        assert "OddError" in text


async def test_syntax_error_that_names_no_text_is_told() -> None:
    """As a handler that reads templates may raise one."""
    failure = await _failure(_raising(SyntaxError("odd", ("page", 1, 1, cast("str", 5)))))
    assert "SyntaxError" in failure.message


async def test_message_names_the_error_also_when_a_note_was_added_to_it() -> None:
    error = ValueError("the room is gone")
    error.add_note("while looking for a room")
    failure = await _failure(_raising(error))
    assert failure.message.startswith("ValueError: the room is gone")


async def test_message_and_stacktrace_are_bounded_and_storable() -> None:
    failure = await _failure(_raising(ValueError("\0\ud800" * 10_000)))
    assert len(failure.message) <= 1000
    assert len(failure.stacktrace) <= attempt.MAX_STACKTRACE
    assert "\0" not in failure.message + failure.stacktrace
    assert (failure.message + failure.stacktrace).encode()


async def test_stacktrace_of_endless_recursion_is_bounded() -> None:
    async def handle(request: CreateSessionRequest, context: Context) -> Any:
        def deeper() -> None:
            deeper()

        deeper()

    failure = await _failure(handle)
    assert failure.code is ErrorCode.HANDLER_FAILED
    assert failure.message.startswith("RecursionError")
    assert len(failure.stacktrace) <= attempt.MAX_STACKTRACE


# ------------------------------------------------------------------------------------- cancellation


async def _raise_cancelled(request: CreateSessionRequest, context: Context) -> None:
    raise asyncio.CancelledError


async def _cancel_itself(request: CreateSessionRequest, context: Context) -> None:
    cast("asyncio.Task[Any]", asyncio.current_task()).cancel()
    await asyncio.sleep(0)


async def _cancel_itself_and_return(request: CreateSessionRequest, context: Context) -> None:
    cast("asyncio.Task[Any]", asyncio.current_task()).cancel()


@pytest.mark.parametrize("handler", [_raise_cancelled, _cancel_itself, _cancel_itself_and_return])
async def test_handler_that_cancels_itself_has_failed(handler: AnyHandler) -> None:
    """The worker's own task goes on: nobody has cancelled it."""
    failure = await _failure(handler)
    assert (failure.code, failure.transient) == (ErrorCode.HANDLER_FAILED, True)
    current = asyncio.current_task()
    assert current is not None
    assert current.cancelling() == 0


class Stubborn:
    """A handler that waits, and does ``then`` when it is cancelled."""

    def __init__(self, then: Callable[[], Awaitable[Any]]) -> None:
        self.calls = 0
        self.started = asyncio.Event()
        self.ended = asyncio.Event()
        self._then = then

    async def __call__(self, request: CreateSessionRequest, context: Context) -> Any:
        self.calls += 1
        self.started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return await self._then()
        finally:
            self.ended.set()


async def _return() -> dict[str, Any]:
    return {"late": True}


async def _fail() -> None:
    raise RuntimeError("cancelled, in other words")


async def _obey() -> None:
    raise asyncio.CancelledError


@pytest.mark.parametrize("then", [_return, _fail, _obey])
async def test_handler_is_cut_off_at_its_timeout_whatever_it_makes_of_that(
    then: Callable[[], Awaitable[Any]],
) -> None:
    """A late result does not count; and a handler that was cut off is not called again."""
    handler = Stubborn(then)
    failure = await _failure(handler, timeout=0.01)
    assert (failure.code, failure.transient) == (ErrorCode.HANDLER_TIMEOUT, True)
    assert "0.01 s" in failure.message
    assert handler.ended.is_set()
    assert handler.calls == 1


async def test_handler_that_does_not_leave_is_left_behind() -> None:
    release = asyncio.Event()
    handler = Stubborn(release.wait)
    failure = await asyncio.wait_for(_failure(handler, timeout=0.01), 5)
    assert failure.code is ErrorCode.HANDLER_TIMEOUT
    assert not handler.ended.is_set()
    release.set()
    await asyncio.wait_for(handler.ended.wait(), 5)


@pytest.mark.parametrize("then", [_return, _fail, _obey])
async def test_cancelling_the_caller_cancels_the_handler_and_waits_for_it(
    then: Callable[[], Awaitable[Any]],
) -> None:
    """Shutdown: no result, no second call, and the caller learns that it was cancelled."""
    handler = Stubborn(then)
    caller = asyncio.ensure_future(_run(handler))
    await handler.started.wait()
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert handler.ended.is_set()
    assert handler.calls == 1


async def test_handler_gets_the_request_and_the_context() -> None:
    model, context = parts.model(request_id=uuid4()), parts.context()
    seen: list[object] = []

    async def handle(request: CreateSessionRequest, context: Context) -> None:
        seen.extend((request, context))

    assert await attempt.run(parts.hooked(handle), model, context, 5.0) == Success(None, {})
    assert seen == [model, context]
