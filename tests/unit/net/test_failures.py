"""What it means that a server could not be reached."""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl

import pytest

from session_client.net.failures import (
    in_one_line,
    network_failure,
    tls_failure,
    tls_hang_up,
    unreachable,
    why_lost,
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
        said = network_failure(each)
        assert said is not None
        assert words in said
        assert "Errno" not in said
    assert network_failure(OSError(errno.EPERM, "Operation not permitted")) is None


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
    for said in (why_lost(error), in_one_line(error or RuntimeError())):
        assert " " in said
        assert "\n" not in said
        assert not said.endswith(":")


def test_only_what_ended_a_connection_is_told_as_that() -> None:
    """A module that asks for input where there is none fails with an EOFError, too."""
    assert "the other side" in why_lost(EOFError("EOF when reading a line"))
    assert in_one_line(EOFError("EOF when reading a line")) == "EOFError: EOF when reading a line"


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
    assert unreachable(error, "mq", "the URL").what == said


def test_a_failed_handshake_is_found_behind_other_errors() -> None:
    error = ConnectionError("the library's own words")
    error.__context__ = ssl.SSLError(1, "[SSL: TLSV13_ALERT_CERTIFICATE_REQUIRED] alert")
    said = tls_failure(error, "mq:5671", "cafile")
    assert said is not None
    assert "client certificate" in said.fix


def test_errors_that_cause_each_other_are_looked_at_once() -> None:
    first, second = ConnectionError(), OSError()
    first.__cause__, second.__context__ = second, first
    assert tls_failure(first, "mq:5671", "cafile") is None
    assert tls_hang_up(first, "mq:5671") is None


def test_a_hang_up_before_the_first_word_is_about_the_clients_certificate() -> None:
    hang_up = tls_hang_up(ConnectionResetError(), "mq:5671")
    assert hang_up is not None
    assert "certfile" in hang_up.fix
    assert tls_hang_up(ConnectionRefusedError(), "mq:5671") is None
