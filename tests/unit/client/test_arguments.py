"""What the client refuses before it sends anything."""

from __future__ import annotations

import re
from typing import Any
from unittest.mock import Mock

import pytest
import yarl
from aiormq import Connection
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from session_client import ClientClosed, SessionClient
from session_client.net.brokers import Broker
from session_contracts import (
    CREATE_SESSION,
    DEFAULT_REPLY_TO_ALLOW,
    GET_SESSION,
    BaseRequest,
    CreateSessionPayload,
    CreateSessionRequest,
    Operation,
)

URL = "amqp://guest:s3cret@localhost/"


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"user_id": "a"}, "user_id: must be"),
        ({"user_id": "ada", "casefile_id": "7"}, "payload.casefile_id: must look like"),
        ({"user_id": "ada", "title": ""}, "payload.title: must be"),
        ({"user_id": "ada", "request_id": "7"}, "request_id: must be a UUID"),
        ({"user_id": "ada", "metadata": {"rate": float("nan")}}, "metadata: must not hold NaN"),
        ({"user_id": "ada", "timeout": 0}, "timeout: must be more than 0"),
        ({"user_id": "ada", "timeout": float("nan")}, "timeout: must be more than 0"),
        ({"user_id": "ada", "timeout": 1e9}, "at most 86400 seconds"),
    ],
)
async def test_a_wrong_argument_is_a_sentence_that_names_it(
    arguments: dict[str, object], problem: str
) -> None:
    """ValueError names the field and the rule, whether or not a broker is there."""
    with pytest.raises(ValueError, match=problem):
        await SessionClient(URL).create_session(**arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("method", "arguments", "problem"),
    [
        ("get_session", {"session_id": "7"}, "payload.session_id: must look like ts_"),
        ("get_session", {"session_id": "ts_251130_a", "request_id": "7"}, "request_id: must be a UUID"),
        ("close_session", {"session_id": "cf_251130_a"}, "payload.session_id: must look like ts_"),
        ("close_session", {"session_id": "ts_251130_a", "timeout": 0}, "timeout: must be more than 0"),
        ("list_sessions", {"limit": 101}, "payload.limit: must be at most 100"),
        ("list_sessions", {"limit": "5"}, "payload.limit: must be a whole number"),
        ("list_sessions", {"offset": -1}, "payload.offset: must be at least 0"),
        ("list_sessions", {"active_only": "yes"}, "payload.active_only: must be true or false"),
        ("list_sessions", {"casefile_id": "7"}, "payload.casefile_id: must look like cf_"),
        ("list_sessions", {"user_id": "a"}, "user_id: must be a string"),
    ],
)
async def test_each_method_names_the_argument_that_is_wrong(
    method: str, arguments: dict[str, object], problem: str
) -> None:
    with pytest.raises(ValueError, match=f"^{problem}"):
        await getattr(SessionClient(URL), method)(**({"user_id": "ada"} | arguments))


class ExtendSession(BaseModel):
    minutes: int = Field(alias="m", gt=0)
    rate: float = 1.0
    why: str = ""


class SessionExtended(BaseModel):
    until: str


EXTEND = Operation("extend_session", ExtendSession, SessionExtended)


@pytest.mark.parametrize(
    ("payload", "problem"),
    [
        (ExtendSession(m=5, rate=float("nan")), "payload.rate: must be a number"),
        (ExtendSession(m=5, why="\0"), "payload.why: must not hold a NUL"),
        (ExtendSession.model_construct(minutes=-5), "payload.m: must be more than 0"),
        (CreateSessionPayload(), "payload: must be ExtendSession, which extend_session takes, not Create"),
        ({"m": 5}, "payload: must be ExtendSession, which extend_session takes, not dict"),
    ],
)
async def test_a_payload_that_a_worker_would_refuse_is_not_sent(payload: object, problem: str) -> None:
    """Whatever its own model thinks of it: what counts is the JSON that would arrive."""
    with pytest.raises(ValueError, match=f"^{problem}"):
        await SessionClient(URL).call(EXTEND, payload, user_id="ada")  # type: ignore[misc]


async def test_the_session_that_a_request_names_is_checked() -> None:
    with pytest.raises(ValueError, match=r"^session_id: must look like ts_"):
        await SessionClient(URL).call(EXTEND, ExtendSession(m=5), user_id="ada", session_id="7")


@pytest.mark.parametrize("operation", [EXTEND, CREATE_SESSION])
async def test_a_request_goes_to_its_own_operation_only(operation: Operation[Any, Any]) -> None:
    request: BaseRequest[Any] = GET_SESSION.request_model.model_validate(
        {"user_id": "ada", "payload": {"session_id": "ts_251130_a"}}
    )
    with pytest.raises(
        ValueError, match=f"operation: the request is one of get_session, not of {operation.name}"
    ):
        await SessionClient(URL).request(request, operation)


@pytest.mark.parametrize(
    "url",
    [
        "",
        ",",
        "localhost",
        "http://localhost/",
        "amqp://",
        "amqp://u:s3cret@host:port/",
        "amqp://s3cret@a..b/",
    ],
)
def test_a_wrong_url_is_refused_without_being_quoted(url: str) -> None:
    """URLs hold passwords, wrong ones too."""
    with pytest.raises(ValueError, match=r"^url: ") as caught:
        SessionClient(url)
    assert "s3cret" not in str(caught.value)


PIECES = [
    *(
        "amqp://",
        "u:p@",
        "mq",
        "xn--a",
        "münchen",
        ".",
        "-",
        "[::1]",
        "[",
        ":",
        ":1",
        "/",
        "/v",
        "%2F",
        "%FF",
    ),
    *("%", "?", "?heartbeat=", "&heartbeat=", "7", "70000", "+", "#", "@", "\\", "\N{FULLWIDTH DIGIT ONE}"),
]


@given(st.lists(st.sampled_from(PIECES), max_size=8).map("".join))
async def test_a_url_that_is_taken_fails_nowhere_later(rest: str) -> None:
    """A traceback at the first connection, and no heartbeats where some were asked for, are both too late."""
    try:
        urls = SessionClient(f"amqp://{rest}")._calls._keeper._urls
    except ValueError:
        return
    for url in urls:
        assert (url.host or "").encode("idna")
        assert Connection(url).heartbeat_timeout == int(url.query["heartbeat"])


@pytest.mark.parametrize("name", ["", "a b", "é", "x" * 65, ".hidden"])
def test_a_name_that_no_queue_could_bear_is_refused(name: str) -> None:
    """Names become queue names: better refused here than by the broker on every connection."""
    with pytest.raises(ValueError, match="name: must be"):
        SessionClient(URL, name=name)
    with pytest.raises(ValueError, match="prefix: must be"):
        SessionClient(URL, prefix=name)


@pytest.mark.parametrize("prefix", ["session", "acme", "0"])
@pytest.mark.parametrize("name", ["client", "a.b-c_d", "0"])
async def test_a_worker_may_send_to_every_reply_queue_of_a_client(name: str, prefix: str) -> None:
    """The worker's allow-list, as it is by default, covers the names the client makes up."""
    broker = Broker(yarl.URL(URL), "the URL", 5)
    link = SessionClient(URL, name=name, prefix=prefix)._calls._keeper._new_link(broker, None, Mock())
    assert re.search(DEFAULT_REPLY_TO_ALLOW, link.reply_to)


def test_an_unknown_way_to_reply_is_refused() -> None:
    """A typing error must not fall back to some default."""
    with pytest.raises(ValueError, match="reply: must be"):
        SessionClient(URL, reply="fast")  # type: ignore[arg-type]


async def test_a_call_before_opening_is_refused() -> None:
    """It would wait for a connection that nobody makes."""
    with pytest.raises(ClientClosed, match="not open"):
        await SessionClient(URL).create_session(user_id="ada")


async def test_a_request_that_no_broker_would_take_is_refused() -> None:
    """An oversized message would close the channel under every other call."""
    text = {f"{number}": "x" * 16_000 for number in range(999)}
    request = CreateSessionRequest(
        user_id="ada", payload=CreateSessionPayload(), metadata=text, policy_hints=text
    )
    with pytest.raises(ValueError, match="larger than 16777216 bytes"):
        await SessionClient(URL).request(request)


@pytest.mark.parametrize(
    ("given", "heartbeat"), [("", "10"), ("?heartbeat=3", "3"), ("?connection_timeout=9", "10")]
)
def test_the_heartbeat_of_the_url_is_honoured(given: str, heartbeat: str) -> None:
    """Ten seconds unless the URL says otherwise; by the library's own 60 a dead peer lives for minutes."""
    [url] = SessionClient(f"amqp://localhost/{given}")._calls._keeper._urls
    assert url.query["heartbeat"] == heartbeat
