"""What the worker reads of a message's headers, and what hostile ones cost it."""

from __future__ import annotations

import sys
import tracemalloc
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import pamqp.encode
import pytest

from session_contracts import amqp
from session_worker.messages import headers
from session_worker.messages.headers import MAX_FIELDS, MAX_TEXT

FRAME = 131_000
"""Bytes of headers that fit into a frame as large as RabbitMQ allows by default."""


def read(table: bytes) -> dict[str, Any]:
    return headers.read(table, 0, len(table))


def written(table: dict[str, Any]) -> bytes:
    return pamqp.encode.field_table(table)[4:]


def field(name: bytes, kind: bytes, value: bytes) -> bytes:
    return bytes([len(name)]) + name + kind + value


def sized(value: bytes) -> bytes:
    return len(value).to_bytes(4, "big") + value


def test_only_the_newest_death_is_read() -> None:
    """It says why the broker moved the message, when, and which time limit it took away."""
    died_at = datetime(2026, 5, 1, tzinfo=UTC)
    newest = {"reason": "expired", "queue": "session.create", "time": died_at, "original-expiration": "100"}
    deaths = [newest | {"count": 1, "routing-keys": ["create"]}, {"reason": "rejected"}]
    assert read(written({"x-death": deaths})) == {"x-death": [newest]}


@pytest.mark.parametrize("deaths", [[], [7, {"reason": "expired"}], {"reason": "expired"}])
def test_deaths_of_another_shape_are_left_out(deaths: Any) -> None:
    """A requester may make up anything there."""
    assert read(written({"x-death": deaths, amqp.ATTEMPTS: 1})) == {amqp.ATTEMPTS: 1}


def test_a_death_that_says_it_is_longer_than_its_list_is_left_out() -> None:
    """What is behind the list is not read as a part of it."""
    forged = field(b"x-death", b"A", sized(b"F" + (99).to_bytes(4, "big") + b"\x06reason"))
    assert read(forged + field(b"x-attempts", b"b", b"\x01")) == {amqp.ATTEMPTS: 1}


def test_the_first_of_two_headers_with_one_name_counts() -> None:
    """The broker writes its own in the place of the first one: a second cannot contradict it."""
    count = field(b"x-delivery-count", b"l", (5).to_bytes(8, "big"))
    forged = field(b"x-delivery-count", b"b", b"\x00")
    assert read(count + forged) == {"x-delivery-count": 5}


def test_a_text_that_is_too_long_or_no_utf8_is_left_out() -> None:
    """None of ours is."""
    longest = "x" * MAX_TEXT
    assert read(written({amqp.EXCEPTION_STACKTRACE: longest})) == {amqp.EXCEPTION_STACKTRACE: longest}
    assert read(written({amqp.EXCEPTION_STACKTRACE: longest + "x"})) == {}
    assert read(field(b"x-request-id", b"S", sized(b"\xff"))) == {}


def nested(kind: bytes, before: bytes, size: int) -> bytes:
    """A table or an array in which there is another one, and so on."""
    inner = b""
    while len(inner) < size:
        inner = before + kind + sized(inner)
        if len(inner) > 40_000:  # deeper ones would take long to make
            break
    return inner


TOO_MANY = {
    "headers without name and value": field(b"", b"V", b"") * (FRAME // 2),
    "headers with short names": field(b"abc", b"t", b"\1") * (FRAME // 6),
    "tables without fields": field(b"a", b"F", sized(b"")) * (FRAME // 7),
    "one of ours, many times": field(b"x-attempts", b"t", b"\1") * (FRAME // 13),
    "a death with many fields": field(
        b"x-death", b"A", sized(b"F" + sized(field(b"reason", b"t", b"\1") * (FRAME // 9)))
    ),
}
WORST = {
    "one array of nothings": field(b"a", b"A", sized(b"V" * FRAME)),
    "the deaths an array of nothings": field(b"x-death", b"A", sized(b"V" * FRAME)),
    "as many headers as are read": field(b"", b"V", b"") * MAX_FIELDS,
    "one of ours, a text as long as it can be": field(b"x-request-id", b"S", sized(b"x" * FRAME)),
    "texts of ours": field(b"x-request-id", b"S", sized(b"x" * MAX_TEXT)) * (FRAME // MAX_TEXT),
    "tables in tables": field(b"a", b"F", sized(nested(b"F", b"\1a", 40_000))),
    "arrays in the deaths": field(b"x-death", b"A", sized(nested(b"A", b"", 40_000))),
}


@pytest.mark.parametrize("table", WORST.values(), ids=WORST)
def test_headers_take_memory_only_for_what_is_kept(table: bytes) -> None:
    """A few small values at the most, whatever a frame is filled with."""
    tracemalloc.start()
    found = read(table)
    kept, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(found) <= 1
    assert kept < MAX_TEXT + 2_000
    assert most < 2 * MAX_TEXT + 10_000


@pytest.mark.parametrize("table", TOO_MANY.values(), ids=TOO_MANY)
def test_too_many_headers_are_not_read(table: bytes) -> None:
    """The message is refused: among those left out might be one that the broker added for us."""
    with pytest.raises(ValueError, match="1000"):
        read(table)


@pytest.mark.parametrize("table", (WORST | TOO_MANY).values(), ids=WORST | TOO_MANY)
def test_headers_take_a_bounded_number_of_steps(table: bytes) -> None:
    """What is stepped over is not gone through, and there is an end to what is gone through."""
    steps = 0

    def count(_: object, event: str, __: object) -> None:
        nonlocal steps
        steps += event in {"call", "c_call"}

    sys.setprofile(count)
    with suppress(ValueError):
        read(table)
    sys.setprofile(None)
    assert steps < 10 * MAX_FIELDS
