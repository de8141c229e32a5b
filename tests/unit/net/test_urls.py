"""Which URLs of brokers are taken, and what is said of the others."""

from __future__ import annotations

import pytest

from session_client.net.diagnosis import InvalidValueError
from session_client.net.urls import broker_urls, splits_login


@pytest.mark.parametrize(
    "url",
    [
        "amqp://mq",
        "amqps://ada:s3%2Fcret@mq.example.com:5671/sales?heartbeat=3&cafile=/etc/ca.pem",
        "AMQP://mq_1:/",
        "amqp://[::1]:5672/",
        "amqp://127.0.0.1/%2Fsales",
        "amqp://münchen.example/",
        "amqp://xn--mnchen-3ya.example/",
        "amqp://mq/" + "v" * 255,
        "amqp://mq/?heartbeat=0",
        "amqp://mq/?heartbeat=65534",
    ],
)
def test_what_a_broker_can_be_reached_by_is_taken_as_it_is(url: str) -> None:
    assert broker_urls(url) == (url,)


def test_commas_separate_urls() -> None:
    """Their order stays, and what is empty or blank between them does not count."""
    assert broker_urls(" amqp://b/,, amqp://a/ ,") == ("amqp://b/", "amqp://a/")


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("", "write amqp://user:password"),
        (" , ", "write amqp://user:password"),
        ("s3cret", "write amqp://user:password"),
        ("http://s3cret/", "write amqp://user:password"),
        ("amqp:s3cret", "write amqp://user:password"),
        ("amqp://ada:s3,cret@mq/", "a comma in a password as %2C"),
        ("amqp://ada:s3/cret@mq/", "percent-encoded"),
        ("amqp://ada:s3[cret@mq/", "percent-encoded"),
        ("amqp://ada:s3@cret@mq/", "percent-encoded"),
        ("amqp://ada:s3\\cret@mq/", "percent-encoded"),
        ("amqp://ada:s3\ncret@mq/", "percent-encoded"),
        ("amqp://ada:s3cret\uff10@mq/", "percent-encoded"),
        ("amqp://", "write host:port"),
        ("amqp://ada:s3cret@/", "write host:port"),
        ("amqp://ada:s3cret@:5672/", "write host:port"),
        ("amqp://ada:s3cret@a..b/", "write host:port"),
        ("amqp://ada:s3cret@xn--a./", "write host:port"),
        (f"amqp://ada:s3cret@{'x' * 64}/", "write host:port"),
        ("amqp://ada:s3cret@m q/", "write host:port"),
        ("amqp://ada:s3cret@[::1/", "write host:port"),
        ("amqp://ada:s3cret@[::1]1/", "write host:port"),
        ("amqp://ada:s3cret@[mq]/", "write host:port"),
        ("amqp://ada:s3cret@::1/", "write host:port"),
        ("amqp://s3cret@mq:port/", "write host:port"),
        ("amqp://s3cret@mq:0/", "1 to 65535"),
        ("amqp://s3cret@mq:65536/", "1 to 65535"),
        ("amqp://s3cret@mq/" + "v" * 256, "longer than 255 bytes"),
        ("amqp://s3cret@mq/" + "%C3%A9" * 128, "longer than 255 bytes"),
        ("amqp://s3cret@mq/?heartbeat=10s", "heartbeat must be whole seconds"),
        ("amqp://s3cret@mq/?heartbeat=65535", "heartbeat must be whole seconds"),
        ("amqp://s3cret@mq/?heartbeat=-1", "heartbeat must be whole seconds"),
        ("amqp://s3cret@mq/?heartbeat=", "heartbeat must be whole seconds"),
        ("amqp://s3cret@mq/?heartbeat=5&heartbeat=x", "heartbeat must be whole seconds"),
        ("amqp://mq/,amqp://ada:s3cret@mq:x/", "write host:port"),
    ],
)
def test_any_other_is_refused_with_what_is_wrong_and_is_not_quoted(url: str, said: str) -> None:
    """A URL may hold a password, and a wrong one in any place."""
    with pytest.raises(ValueError, match=said) as caught:
        broker_urls(url)
    assert "s3" not in str(caught.value)
    assert isinstance(caught.value, InvalidValueError), "what is wrong and what to do are kept apart"


@pytest.mark.parametrize(
    ("url", "splits"),
    [
        ("amqp://ada:12/34@mq/", True),
        ("amqp://ada:12#34@mq/", True),
        ("amqp://ada:12?34@mq/", True),
        ("amqp://ada:1@2/34@mq/", True),
        ("amqp://ada:12%2F34@mq/", False),
        ("amqp://ada:1@2@mq/v?name=ada", False),
        ("amqp://mq/v", False),
    ],
)
def test_a_password_that_cuts_the_url_is_found(url: str, splits: bool) -> None:
    assert splits_login(url) is splits
