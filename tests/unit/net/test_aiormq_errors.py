"""Every way in which aiormq says that a connection is gone leaves as one error, in parts for people."""

from __future__ import annotations

import asyncio

import pytest
from aiormq.exceptions import (
    AMQPConnectionError,
    ChannelInvalidStateError,
    ConnectionClosed,
    ConnectionInternalError,
    InvalidFrameError,
)
from pamqp.exceptions import PAMQPException

from session_client.net.aiormq_errors import broker_errors
from session_client.net.close_reasons import Kind
from session_client.net.diagnosis import DiagnosedError, Diagnosis
from session_client.net.errors import ForbiddenError, LinkLostError


@pytest.mark.parametrize(
    "error",
    [
        AMQPConnectionError("gone"),
        ChannelInvalidStateError("closed"),
        InvalidFrameError("odd"),
        PAMQPException("odd"),
        ConnectionResetError(),
        TimeoutError(),
        asyncio.IncompleteReadError(b"", None),
        RecursionError("headers within headers"),
        RuntimeError("the handler is closed"),
        StopAsyncIteration(),
        asyncio.CancelledError(),
    ],
    ids=repr,
)
async def test_whatever_ends_a_connection_is_a_lost_link(error: BaseException) -> None:
    """aiormq cancels who waits on a connection that it closes: nobody has asked for that."""
    with pytest.raises(LinkLostError) as lost, broker_errors():
        raise error
    assert lost.value.what
    assert not lost.value.permanent


async def test_a_cancellation_that_was_asked_for_stays_one() -> None:
    async def wait() -> None:
        with broker_errors():
            await asyncio.Event().wait()

    task = asyncio.create_task(wait())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize(
    ("error", "text", "unavailable"),
    [
        (ConnectionInternalError, "INTERNAL_ERROR", True),
        (ConnectionInternalError, "INTERNAL_ERROR - Feature `x` is deprecated.", False),
        (ConnectionClosed, "CONNECTION_FORCED - closed by an operator", False),
    ],
)
async def test_a_broker_that_fails_inside_may_be_starting(
    error: type[Exception], text: str, unavailable: bool
) -> None:
    """It is given longer, at the start, than one that does not answer at all."""
    with pytest.raises(LinkLostError) as lost, broker_errors():
        raise error(text)
    assert (lost.value.kind is Kind.UNAVAILABLE) is unavailable


async def test_a_missing_permission_is_an_error_of_its_own_with_what_to_do() -> None:
    """Trying again cannot help until somebody grants it."""
    words = "ACCESS_REFUSED - access to queue 'q' in vhost '/' refused for user 'ada'"
    with pytest.raises(ForbiddenError) as forbidden, broker_errors(queue="configure"):
        raise ConnectionClosed(403, words)
    assert forbidden.value.what == "user ada has no configure permission on queue q in vhost /"
    assert forbidden.value.fix.startswith("grant it with `rabbitmqctl set_permissions`")
    assert forbidden.value.permanent


def test_an_errors_parts_are_one_sentence_and_stay_two_parts() -> None:
    """Also where a part holds a semicolon of its own."""
    told = Diagnosis("it is full; so the log says", "make room")
    for error in (DiagnosedError(told), DiagnosedError(*told), LinkLostError(told)):
        assert str(error) == "it is full; so the log says; make room"
        assert (error.what, error.fix) == told
        assert error.diagnosis == told
    assert str(DiagnosedError("it is gone")) == "it is gone"
