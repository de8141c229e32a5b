"""What the client refuses before it sends anything."""

from __future__ import annotations

import re
from unittest.mock import Mock

import pytest
import yarl
from aiormq import Connection
from hypothesis import given
from hypothesis import strategies as st

from session_client import ClientClosed, SessionClient
from session_client.net.brokers import Broker
from session_contracts import DEFAULT_REPLY_TO_ALLOW, CreateSessionPayload, CreateSessionRequest

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
        urls = SessionClient(f"amqp://{rest}")._keeper._urls
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
    link = SessionClient(URL, name=name, prefix=prefix)._keeper._new_link(broker, None, Mock())
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
    [url] = SessionClient(f"amqp://localhost/{given}")._keeper._urls
    assert url.query["heartbeat"] == heartbeat
