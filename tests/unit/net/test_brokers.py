"""Connecting to the first broker that can be used, and what is said of those that cannot."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

import pytest
from aiormq.exceptions import ProbableAuthenticationError
from yarl import URL

from session_client.net import dial
from session_client.net.brokers import Broker, NoBrokerError, first_to_open
from session_client.net.errors import ConnectError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from ssl import SSLContext

MQ = Broker(URL("amqp://ada:s3cret@mq/limit"), "amqp_url", 10)


@pytest.mark.parametrize(
    ("farewell", "said", "permanent"),
    [
        (
            "ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN",
            "login of user ada",
            True,
        ),
        ("NOT_ALLOWED - vhost limit not found", "has no vhost limit, or user ada may not enter it", True),
        ("NOT_ALLOWED - access to vhost 'limit' refused for user 'ada'", "may not enter it", True),
        (
            "NOT_ALLOWED - access to vhost 'limit' refused for user 'ada': connection limit (0) is reached",
            "takes no more connections",
            False,
        ),
        (
            "NOT_ALLOWED - Connection refused for user 'ada': user connection limit (1) is reached",
            "takes no more connections",
            False,
        ),
        (
            "INTERNAL_ERROR - access to vhost 'limit' refused for user 'ada': vhost 'limit' is down",
            "is not ready for vhost limit",
            False,
        ),
        (
            (
                "NOT_ALLOWED - access to vhost 'v' refused for user 'a': connection limit cannot be queried, "
                "timeout"
            ),
            "takes no more connections",
            False,
        ),
        (
            "NOT_ALLOWED - connection refused: node connection limit (10) is reached",
            "takes no more connections",
            False,
        ),
        ("CONNECTION_FORCED - broker forced connection closure", "closed the connection", False),
    ],
)
def test_a_refused_connection_is_told_by_the_brokers_own_words(
    farewell: str, said: str, permanent: bool
) -> None:
    """Who reads "no such vhost" while a node boots looks for a mistake that is none."""
    error = MQ.error(ConnectionError(), farewell)
    assert error.what.startswith("the broker at mq:5672 ")
    assert said in error.what
    assert error.permanent is permanent
    assert error.fix


def test_a_login_that_was_refused_without_a_word_is_told_as_that() -> None:
    error = MQ.error(ProbableAuthenticationError("the server hung up"))
    assert "refused the login of user ada" in error.what
    assert "amqp_url" in error.fix
    assert error.permanent


def test_a_broker_that_says_nothing_is_told_with_the_time_it_had() -> None:
    assert str(MQ.error(TimeoutError())) == "the broker at mq:5672 did not answer within 10 s"


@pytest.fixture
def port() -> Iterator[int]:
    """Where something listens, at each address of this machine."""
    with socket.create_server(("0.0.0.0", 0)) as server:
        yield server.getsockname()[1]


async def take(broker: Broker, _: SSLContext | None, connected: socket.socket) -> str | None:
    connected.close()
    return broker.url.host


async def test_the_brokers_are_tried_in_order(port: int) -> None:
    urls = [URL(f"amqp://{host}:{port}/") for host in ("127.0.0.2", "127.0.0.1")]
    assert await first_to_open(urls, take, url_name="the URL", seconds=10) == "127.0.0.2"


@pytest.mark.parametrize("permanent", [True, False])
async def test_only_a_broker_that_says_no_for_good_speaks_for_its_other_addresses(
    port: int, permanent: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others may be silent, or start, at one address only."""
    asked: list[str | None] = []

    async def two_addresses(host: str, port: int) -> list[dial.Address]:
        return [dial.Address(socket.AF_INET, (each, port)) for each in ("127.0.0.1", "127.0.0.2")]

    async def refuse(broker: Broker, _: SSLContext | None, connected: socket.socket) -> None:
        connected.close()
        asked.append(broker.url.host)
        raise ConnectError("no", permanent=permanent)

    monkeypatch.setattr(dial, "look_up", two_addresses)
    urls = [URL(f"amqp://{host}:{port}/") for host in ("one", "two")]
    with pytest.raises(NoBrokerError) as failed:
        await first_to_open(urls, refuse, url_name="the URL", seconds=10)
    assert asked == (["one", "two"] if permanent else ["one", "one", "two", "two"])
    assert len(failed.value.failures) == len(asked)
    assert str(failed.value) == "no", "the same is not said twice"


async def test_a_name_that_is_looked_up_slowly_does_not_hold_up_the_other_brokers(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its address is taken all the same where no other broker can be used."""
    answered = asyncio.Event()
    refused: list[str | None] = []

    async def slow_for_one(host: str, port: int) -> list[dial.Address]:
        if host == "slow":
            await answered.wait()
        return [dial.Address(socket.AF_INET, ("127.0.0.1", port))]

    async def only_the_slow_one(broker: Broker, _: SSLContext | None, connected: socket.socket) -> str | None:
        connected.close()
        answered.set()
        if broker.url.host != "slow":
            refused.append(broker.url.host)
            raise ConnectError("no", permanent=True)
        return broker.url.host

    monkeypatch.setattr(dial, "look_up", slow_for_one)
    urls = [URL(f"amqp://{host}:{port}/") for host in ("slow", "quick")]
    async with asyncio.timeout(5):
        assert await first_to_open(urls, take, url_name="the URL", seconds=60) == "quick"
        found = await first_to_open(urls, only_the_slow_one, url_name="the URL", seconds=60)
    assert (found, refused) == ("slow", ["quick"])


async def test_each_broker_that_cannot_be_used_is_named_with_the_reason(tmp_path: object) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        refusing = closed.getsockname()[1]
    urls = [URL(f"amqp://127.0.0.1:{refusing}/"), URL(f"amqps://127.0.0.1:{refusing}/?cafile={tmp_path}/no")]
    with pytest.raises(NoBrokerError) as failed:
        await first_to_open(urls, take, url_name="the URL", seconds=10)
    assert f"the broker at 127.0.0.1:{refusing} cannot be reached (connection refused" in str(failed.value)
    assert f"cafile {tmp_path}/no in the broker's URL cannot be read" in str(failed.value)


async def test_a_name_whose_answer_never_comes_is_told_as_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(host: str, port: int) -> list[dial.Address]:
        await asyncio.Event().wait()
        return []

    monkeypatch.setattr(dial, "look_up", never)
    with pytest.raises(NoBrokerError, match=r"did not answer within 0\.05 s"):
        await first_to_open([URL("amqp://mq/")], take, url_name="the URL", seconds=0.05)
