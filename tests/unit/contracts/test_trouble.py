"""What servers' refusals mean."""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl

import pytest

from session_client.net.trouble import (
    network_trouble,
    refusal,
    splits_login,
    tls_hang_up,
    tls_trouble,
    unreachable,
    why_lost,
    words,
)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            ConnectionRefusedError(errno.ECONNREFUSED, "Connect call failed ('::1', 1, 0, 0)"),
            "refused: nothing",
        ),
        (
            OSError("Multiple exceptions: [Errno 111] Connect call failed, [Errno 111] again"),
            "refused: nothing",
        ),
        (socket.gaierror(-2, "Name or service not known"), "the host name is not known"),
        (OSError(errno.EHOSTUNREACH, "No route to host"), "no way to it in the network"),
    ],
)
def test_a_connection_that_does_not_come_about_is_told_without_the_systems_words(
    error: OSError, words: str
) -> None:
    """Also as the cause of a library's own error."""
    wrapped = RuntimeError("outer")
    wrapped.__cause__ = error
    for each in (error, wrapped):
        said = network_trouble(each)
        assert said is not None
        assert words in said
        assert "Errno" not in said
    assert network_trouble(OSError(errno.EPERM, "Operation not permitted")) is None


@pytest.mark.parametrize(
    "error",
    [
        TimeoutError(),
        asyncio.CancelledError(),
        StopAsyncIteration(),
        ConnectionResetError(),
        OSError(),
        asyncio.IncompleteReadError(b"", None),
        RuntimeError(),
        RuntimeError("several\nlines"),
        None,
    ],
    ids=repr,
)
def test_every_error_has_words_on_one_line(error: BaseException | None) -> None:
    """Many have no text of their own: a reason such as "TimeoutError: " says nothing."""
    for said in (why_lost(error), words(error or RuntimeError())):
        assert " " in said
        assert "\n" not in said
        assert not said.endswith(":")


def test_only_what_ended_a_connection_is_told_as_that() -> None:
    """A module that asks for input where there is none fails with an EOFError, too."""
    assert "the other side" in why_lost(EOFError("EOF when reading a line"))
    assert words(EOFError("EOF when reading a line")) == "EOFError: EOF when reading a line"


@pytest.mark.parametrize(
    ("farewell", "said", "may_pass"),
    [
        (
            "ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN",
            "login of user ada",
            False,
        ),
        ("NOT_ALLOWED - vhost limit not found", "mq has no vhost limit, or user ada may not enter it", False),
        ("NOT_ALLOWED - access to vhost 'limit' refused for user 'ada'", "may not enter it", False),
        (
            "NOT_ALLOWED - access to vhost 'limit' refused for user 'ada': connection limit (0) is reached",
            "mq takes no more connections",
            True,
        ),
        (
            "NOT_ALLOWED - Connection refused for user 'ada': user connection limit (1) is reached",
            "mq takes no more connections",
            True,
        ),
        (
            "INTERNAL_ERROR - access to vhost 'limit' refused for user 'ada': vhost 'limit' is down",
            "mq is not ready for vhost limit",
            True,
        ),
        (
            (
                "NOT_ALLOWED - access to vhost 'v' refused for user 'a': connection limit cannot be queried, "
                "timeout"
            ),
            "mq takes no more connections",
            True,
        ),
        (
            "NOT_ALLOWED - connection refused: node connection limit (10) is reached",
            "mq takes no more connections",
            True,
        ),
        ("CONNECTION_FORCED - broker forced connection closure", "mq closed the connection", True),
    ],
)
def test_a_refused_connection_is_told_by_the_brokers_own_words(
    farewell: str, said: str, may_pass: bool
) -> None:
    """Who reads "no such vhost" while a node boots looks for a mistake that is none."""
    assert said in refusal(farewell, "mq", user="ada", vhost="limit").sentence
    assert refusal(farewell, "mq", user="ada", vhost="limit").may_pass is may_pass


@pytest.mark.parametrize(
    ("cause", "said"),
    [
        (
            socket.gaierror(-2, "Name or service not known"),
            "mq cannot be reached (the host name is not known)",
        ),
        (ConnectionResetError(), "mq closed the connection before it was open"),
        (StopAsyncIteration(), "mq closed the connection before it was open"),
        (
            ConnectionRefusedError(111, "refused"),
            "mq cannot be reached (connection refused: nothing listens there)",
        ),
    ],
)
def test_a_broker_that_cannot_be_reached_is_told_by_the_cause(cause: Exception, said: str) -> None:
    error = ConnectionError("the library's own words")
    error.__cause__ = cause
    assert unreachable(error, "mq").startswith(said)


def test_a_failed_handshake_is_found_behind_other_errors() -> None:
    error = ConnectionError("the library's own words")
    error.__context__ = ssl.SSLError(1, "[SSL: TLSV13_ALERT_CERTIFICATE_REQUIRED] alert")
    said = tls_trouble(error, "mq:5671", "cafile")
    assert said is not None
    assert "client certificate" in said


def test_errors_that_cause_each_other_are_looked_at_once() -> None:
    first, second = ConnectionError(), OSError()
    first.__cause__, second.__context__ = second, first
    assert tls_trouble(first, "mq:5671", "cafile") is None
    assert tls_hang_up(first, "mq:5671") is None


def test_a_hang_up_before_the_first_word_is_about_the_clients_certificate() -> None:
    assert "certfile" in (tls_hang_up(ConnectionResetError(), "mq:5671") or "")
    assert tls_hang_up(ConnectionRefusedError(), "mq:5671") is None


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
