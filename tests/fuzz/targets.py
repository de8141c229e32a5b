"""What hostile bytes can do to the decoders of bodies and of properties: nothing but be refused.

``properties_hold`` and ``body_holds`` are the two targets. ``make fuzz`` drives them with a coverage-guided
fuzzer; ``test_corpus.py`` runs them over the nasty inputs in ``corpus/``.
"""

from __future__ import annotations

import json
import tracemalloc
from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

from session_contracts import CreateSessionResponse, Names
from session_contracts.amqp import DEFAULT_REPLY_TO_ALLOW
from session_worker.broker import frames
from session_worker.messages.delivery import Delivery
from session_worker.messages.message import Properties
from session_worker.operations.built_in import CREATE
from session_worker.requests.parse import RequestParser
from session_worker.requests.request import NIL_ID, Refusal, Request
from session_worker.requests.response import ResponseBuilder

if TYPE_CHECKING:
    from collections.abc import Iterator

    from session_worker.messages.delivery import Receipt

MAX_BODY_BYTES = 16_384
PARSER = RequestParser(CREATE, Names(), max_body_bytes=MAX_BODY_BYTES, reply_to_allow=DEFAULT_REPLY_TO_ALLOW)
REPLIES = ResponseBuilder("fuzz", CREATE)
HEADER = b"\x00\x3c\x00\x00" + bytes(8)


@contextmanager
def paid_by(data: bytes) -> Iterator[None]:
    """Take memory in proportion to the bytes that something is done for. (``make fuzz`` limits the time.)"""
    tracemalloc.start()
    try:
        yield
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 100_000 + 60 * len(data), f"{len(data)} bytes took {most} bytes of memory"


def body_holds(data: bytes) -> None:
    """Any body is a request with a lasting identity, or is refused in a schema-valid answer."""
    delivery = Delivery(body=data, receipt=cast("Receipt", None), correlation_id="fuzz")
    with paid_by(data):
        found = PARSER.parse(delivery)
    if isinstance(found, Refusal):
        answer = REPLIES.refused(found)
        assert CreateSessionResponse.model_validate_json(answer).error == found.error
        assert 0 < len(found.error) <= 2000
        return
    assert found.request_id != NIL_ID
    again = PARSER.parse(delivery)
    assert isinstance(again, Request)
    assert (again.request_id, again.fingerprint) == (found.request_id, found.fingerprint)
    json.dumps(found.model.model_dump(mode="json"), allow_nan=False).encode()


def properties_hold(data: bytes) -> None:
    """Any content header gives properties from which a reply can be made, at a price its bytes explain."""
    with paid_by(data):
        found = frames.properties(HEADER + data)
    for text in (found.correlation_id, found.reply_to, found.message_id, found.type, found.content_type):
        assert text is None or len(text.encode()) <= 255
    copy = Properties(correlation_id=found.correlation_id, reply_to=found.reply_to, timestamp=found.timestamp)
    frames.publish(1, "q", copy, b"", mandatory=True, max_frame=4096)
