"""Our frames are pamqp's frames, to the byte."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pamqp.encode
import pamqp.frame
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pamqp import commands as spec
from pamqp.body import ContentBody
from pamqp.header import ContentHeader

from session_worker.broker import frames
from session_worker.messages import headers as headers_module
from session_worker.messages.errors import TooLongError
from session_worker.messages.message import Properties

USED = [name.decode() for name in headers_module._USED if name != b"x-death"]
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
maybe_text = st.none() | texts
values = (
    st.none()
    | st.booleans()
    | st.integers(-(2**40), 2**40)
    | texts
    | st.lists(st.integers(0, 9), max_size=3)
    | st.dictionaries(st.text("ab", max_size=2), st.booleans(), max_size=2)
    | st.floats(allow_nan=False, width=32)
)
headers = st.dictionaries(
    st.text("abcdefgh-", min_size=1, max_size=20) | st.sampled_from(USED), values, min_size=1, max_size=4
)
seconds = st.integers(1, 2**32 - 1)


def kept(table: dict[str, Any]) -> dict[str, Any]:
    """What the worker reads of these headers."""
    return {name: value for name, value in table.items() if name in USED and isinstance(value, int | str)}


def split(data: bytes) -> list[Any]:
    """The frames in ``data`` as pamqp reads them."""
    found = []
    while data:
        used, channel, frame = pamqp.frame.unmarshal(data)
        assert channel == 7
        found.append(frame)
        data = data[used:]
    return found


@given(
    content_type=maybe_text,
    table=st.none() | headers,
    persistent=st.booleans(),
    correlation_id=maybe_text,
    reply_to=maybe_text,
    message_id=maybe_text,
    timestamp=st.none() | seconds,
    kind=maybe_text,
    queue=texts,
    body=st.binary(max_size=300),
    mandatory=st.booleans(),
)
def test_what_we_publish_is_what_pamqp_reads(
    content_type: str | None,
    table: dict[str, Any] | None,
    persistent: bool,
    correlation_id: str | None,
    reply_to: str | None,
    message_id: str | None,
    timestamp: int | None,
    kind: str | None,
    queue: str,
    body: bytes,
    mandatory: bool,
) -> None:
    """Every property arrives as it was given, and the body whole, in pieces that fit the frame size."""
    properties = Properties(
        content_type=content_type,
        headers=table,
        persistent=persistent,
        correlation_id=correlation_id,
        reply_to=reply_to,
        message_id=message_id,
        timestamp=timestamp,
        type=kind,
    )
    max_frame = max(100, len(frames._content(properties, len(body))) + frames.OVERHEAD)
    data = frames.publish(7, queue, properties, body, mandatory=mandatory, max_frame=max_frame)
    publish, header, *pieces = split(data)
    assert (publish.exchange, publish.routing_key, publish.mandatory) == ("", queue, mandatory)
    assert b"".join(piece.value for piece in pieces) == body
    assert all(0 < len(piece.value) <= max_frame - frames.OVERHEAD for piece in pieces)
    read = header.properties
    assert header.body_size == len(body)
    assert read.content_type == content_type
    assert read.headers == table
    assert read.delivery_mode == (2 if persistent else None)
    assert (read.correlation_id, read.reply_to, read.message_id) == (correlation_id, reply_to, message_id)
    assert read.timestamp == (None if timestamp is None else datetime.fromtimestamp(timestamp, UTC))
    assert read.message_type == kind


@given(headers | st.dictionaries(st.just("traceparent"), texts, min_size=1))
def test_headers_are_written_as_pamqp_writes_them(table: dict[str, Any]) -> None:
    """A wrong size of the table would not be noticed by whoever reads a header behind it."""
    assert frames._table(table) == pamqp.encode.field_table(table)


@given(
    content_type=maybe_text,
    content_encoding=maybe_text,
    table=st.none() | headers | st.dictionaries(st.sampled_from(USED), values, min_size=1),
    delivery_mode=st.sampled_from([None, 1, 2]),
    priority=st.none() | st.integers(0, 9),
    correlation_id=maybe_text,
    reply_to=maybe_text,
    expiration=maybe_text,
    message_id=maybe_text,
    timestamp=st.none() | seconds,
    kind=maybe_text,
    user_id=maybe_text,
    app_id=maybe_text,
    size=st.integers(0, 2**50),
)
def test_what_pamqp_writes_is_what_we_read(size: int, kind: str | None, table: Any, **given: Any) -> None:
    """Properties and headers that do not matter to us are skipped, and those after them are still found."""
    timestamp = given.pop("timestamp")
    written = spec.Basic.Properties(
        headers=table,
        message_type=kind,
        timestamp=None if timestamp is None else datetime.fromtimestamp(timestamp, UTC),
        **given,
    )
    payload = pamqp.frame.marshal(ContentHeader(properties=written, body_size=size), 7)[7:-1]
    read = frames.properties(payload)
    assert frames.body_size(payload) == size
    # pamqp leaves out a text that is empty.
    for name in (
        "content_type",
        "content_encoding",
        "correlation_id",
        "reply_to",
        "expiration",
        "message_id",
    ):
        assert (getattr(read, name) or None) == (given[name] or None)
    assert (read.type or None) == (kind or None)
    assert (read.headers or {}) == kept(table or {})
    assert read.persistent == (given["delivery_mode"] == 2)
    assert read.timestamp == timestamp


@given(tag=st.integers(1, 2**63 - 1), flag=st.booleans())
def test_acknowledgements_are_pamqps(tag: int, flag: bool) -> None:
    """Both ways: what we send to settle deliveries, what the broker sends to confirm publishes."""
    assert frames.ack(7, tag, multiple=flag) == pamqp.frame.marshal(spec.Basic.Ack(tag, flag), 7)
    assert frames.requeue(7, tag) == pamqp.frame.marshal(spec.Basic.Nack(tag, False, True), 7)
    for frame in (spec.Basic.Ack(tag, flag), spec.Basic.Nack(tag, flag)):
        assert frames.confirmation(pamqp.frame.marshal(frame, 7)[7:-1]) == (tag, flag)


@given(
    tag=st.integers(1, 2**63 - 1),
    redelivered=st.booleans(),
    consumer=texts,
    exchange=st.sampled_from(["", "session", "a.b"]),
)
def test_deliveries_are_read_as_pamqp_writes_them(
    tag: int, redelivered: bool, consumer: str, exchange: str
) -> None:
    """The tag is found behind a consumer tag of any length."""
    frame = spec.Basic.Deliver(consumer, tag, redelivered, exchange, "session.create")
    data = pamqp.frame.marshal(frame, 7)
    assert data[7:11] == frames.DELIVER
    assert frames.delivery(data[7:-1]) == (tag, redelivered)


def test_a_returned_message_says_why() -> None:
    """Code and text come out of the frame."""
    data = pamqp.frame.marshal(spec.Basic.Return(312, "NO_ROUTE", "", "gone"), 7)
    assert data[7:11] == frames.RETURN
    assert frames.reason(data[7:-1]) == "312 NO_ROUTE"


@given(data=st.binary(max_size=60), cut=st.integers(0, 80))
def test_a_frame_counts_when_all_of_it_is_there(data: bytes, cut: int) -> None:
    """Cut anywhere, it is not taken; whole, its end is known."""
    whole = pamqp.frame.marshal(ContentBody(data), 7)
    if cut < len(whole):
        assert frames.frame_at(b"xx" + whole[:cut], 2) is None
    assert frames.frame_at(b"xx" + whole + b"more", 2) == (frames.BODY, 7, 2 + len(whole))


@given(st.binary(max_size=400))
def test_reading_properties_never_fails_whatever_the_bytes(data: bytes) -> None:
    """Nothing raises, and texts that are read are texts."""
    read = frames.properties(data)
    assert read.correlation_id is None or isinstance(read.correlation_id, str)


@pytest.mark.parametrize(
    ("bad", "name"),
    [
        pytest.param(b"\x04\x00\x02\xff\xfe", "correlation_id", id="a correlation id that is no UTF-8"),
        pytest.param(b"\x04\x00\xffabc", "correlation_id", id="a text longer than its frame"),
        pytest.param(b"\x20\x00\x00\x00\x00\xff", "headers", id="a table longer than its frame"),
        pytest.param(b"\x20\x00\x00", "headers", id="a table without its size"),
        pytest.param(b"\x80\x00\x01\xff", "content_type", id="a content type that is no UTF-8"),
        pytest.param(b"\x00\x01\x80\x00", "flags", id="a second word of flags"),
    ],
)
def test_a_needed_property_that_cannot_be_decoded_is_named(bad: bytes, name: str) -> None:
    """Without it, a request might be answered otherwise than its sender meant."""
    assert frames.properties(b"\x00\x3c" + b"\0" * 10 + bad).illegible == name


@pytest.mark.parametrize(
    "odd",
    [
        pytest.param(b"\x00\x40" + (2**63).to_bytes(8, "big"), id="a time in nanoseconds"),
        pytest.param(b"\x00\x80\x02\xff\xfe", id="a message id that is no UTF-8"),
        pytest.param(b"\x00\x20\x01\xff", id="a type that is no UTF-8"),
        pytest.param(b"\x00\x08\x01\xff", id="an application id that is no UTF-8"),
        pytest.param(b"\x20\x00\x00\x00\x00\x03\x01\xffV", id="a header's name that is no UTF-8"),
        pytest.param(b"\x20\x00\x00\x00\x00\x03\x01a?", id="a header of an unknown type"),
        pytest.param(b"\x20\x00\x00\x00\x00\x02\xffa", id="a header's name longer than its table"),
        pytest.param(b"\x20\x00\x00\x00\x00\x08\x01aS\x00\x00\x00\x09x", id="a header longer than its table"),
        pytest.param(b"\x20\x00\x00\x00\x00\x0b\x01aT" + b"\xff" * 8, id="a header's time before 1970"),
    ],
)
def test_a_property_that_nobody_needs_is_left_out_if_it_cannot_be_decoded(odd: bytes) -> None:
    """The request is served as if its sender had not said it."""
    assert frames.properties(b"\x00\x3c" + b"\0" * 10 + odd) == Properties(
        headers={} if odd[0] == 0x20 else None
    )


def test_a_property_that_does_not_fit_is_not_sent() -> None:
    """Instead of a frame that would cost the connection."""
    with pytest.raises(ValueError, match="255"):
        frames.publish(7, "q" * 256, Properties(), b"", mandatory=True, max_frame=4096)


def test_properties_that_no_frame_holds_are_not_sent() -> None:
    """The broker closes the connection over a larger frame, whoever else's messages are on it."""
    properties = Properties(headers={"x-exception-stacktrace": "x" * 5000})
    with pytest.raises(TooLongError, match="properties"):
        frames.publish(7, "q", properties, b"", mandatory=True, max_frame=4096)
