"""The time a call gives to each try, and what it makes of a reply."""

from __future__ import annotations

import asyncio
from unittest.mock import AsyncMock, Mock

import pytest
from yarl import URL

from session_client import RequestFailed, SessionClient
from session_client.call import Call
from session_client.link import Link
from session_client.net.brokers import Broker
from session_client.net.errors import LinkLostError
from session_client.publish_errors import NotAcceptedError, UnconfirmedError
from session_contracts import (
    CREATE_SESSION,
    CreateSessionPayload,
    CreateSessionRequest,
    CreateSessionResponse,
    Names,
)

REQUEST = CreateSessionRequest(user_id="ada", payload=CreateSessionPayload())


def a_link() -> Link:
    """One whose broker says nothing: it was never connected."""
    broker = Broker(URL("amqp://mq/"), "the URL", 5)
    return Link(broker, None, Mock(), names=Names(), reply_queue=None, on_reply=lambda _: None)


async def test_only_waiting_in_vain_doubles_the_time_of_the_next_try(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy worker must not get more copies the slower it is; but a full queue, or a lost connection, says
    nothing about the worker, and a reply that is lost afterwards must be asked for as soon as ever."""
    monkeypatch.setattr("session_client.calls.RETRY_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr("session_client.call.FIRST_REPLY_WAIT_SECONDS", 0.02)
    calls, call = SessionClient("amqp://mq/")._calls, Call(CREATE_SESSION, REQUEST, timeout=60)
    for outcome, wait in (
        (NotAcceptedError("full"), 0.02),
        (LinkLostError("gone"), 0.02),
        (NotAcceptedError("full"), 0.02),
        (None, 0.04),
        (UnconfirmedError("silent"), 0.08),
        (NotAcceptedError("full"), 0.08),
    ):
        link = a_link()
        monkeypatch.setattr(calls._keeper, "link", AsyncMock(return_value=link))
        monkeypatch.setattr(link, "publish", AsyncMock(side_effect=outcome))
        monkeypatch.setattr(link, "blocked", AsyncMock(return_value=None))
        await calls._try(call)
        assert call.reply_wait == wait, outcome


async def test_a_link_that_is_lost_before_the_reply_lengthens_no_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nor time: the try ends at once."""
    calls, call, link = (
        SessionClient("amqp://mq/")._calls,
        Call(CREATE_SESSION, REQUEST, timeout=60),
        a_link(),
    )
    monkeypatch.setattr(calls._keeper, "link", AsyncMock(return_value=link))
    monkeypatch.setattr(link, "publish", AsyncMock(side_effect=lambda *_: link.fail("gone")))
    async with asyncio.timeout(2):
        await calls._try(call)
    assert call.accepted
    assert call.reply_wait == 5


async def test_the_deadline_bounds_every_try() -> None:
    """The time that is left, where that is less than a try's."""
    call = Call(CREATE_SESSION, REQUEST, timeout=0.05)
    assert 0 < call.reply_wait <= 0.05
    await asyncio.wait({call.replied}, timeout=call.reply_wait)
    assert call.is_overdue


async def test_the_time_to_live_is_what_is_left_of_the_timeout() -> None:
    """In milliseconds, as text, never more than the caller gave."""
    expiration = Call(CREATE_SESSION, REQUEST, timeout=7).message("replies").properties.expiration
    assert isinstance(expiration, str)
    assert 6000 < int(expiration) <= 7000


@pytest.mark.parametrize(
    ("metadata", "code", "retryable"),
    [
        ({}, None, False),
        ({"error_code": "from_the_future", "retryable": True}, "from_the_future", True),
        ({"error_code": 7, "retryable": "yes"}, None, False),
    ],
)
def test_a_failed_response_needs_no_code_this_version_knows(
    metadata: dict[str, object], code: str | None, retryable: bool
) -> None:
    """A newer worker's codes pass through; anything else than the contract's types is ignored."""
    response = CreateSessionResponse.model_validate(
        {
            "request_id": REQUEST.request_id,
            "status": "failed",
            "payload": {"session_id": "ts_000000_none", "created_at": "2025-10-13T14:30:00Z"},
            "metadata": metadata,
        }
    )
    error = RequestFailed(response)
    assert (error.code, error.retryable) == (code, retryable)
    assert "no reason given" in str(error)
