"""Which messages of the slow lane are taken for killers of workers, and what is read of them then."""

from typing import Any, cast
from uuid import UUID, uuid4

import pytest

from session_contracts import ErrorCode, Names
from session_contracts.amqp import DEFAULT_REPLY_TO_ALLOW, REQUEST_ID
from session_worker.messages.delivery import Delivery, Lane, Receipt
from session_worker.operations.built_in import CREATE
from session_worker.requests.parse import RequestParser, identify_unread
from tests.support import parts

BODY = b'{"request_id": "4f9c6f0e-5f0b-4c57-8a51-5a0a3d0f3a11"}'


def lost(count: object, **fields: Any) -> Delivery:
    """A delivery with the broker's count of lost ones."""
    given = {"lane": Lane.SLOW, "redelivered": True, **fields}
    headers = {"x-delivery-count": count}
    return Delivery(BODY, cast("Receipt", None), correlation_id="asked", headers=headers, **given)


@pytest.mark.parametrize(
    ("delivery", "suspected"),
    [
        (lost(2), False),
        (lost(3), True),
        (lost(5), True),
        (lost(21), False),  # RabbitMQ 4, first delivery: what the work queue counted
        (lost(3, expired=True), False),  # may be the work queue's count as well
        (lost(3, redelivered=False), False),  # made up by the requester
        (lost(3, lane=Lane.WORK), False),
        (lost("3"), False),
        (lost(None), False),
    ],
)
def test_only_losses_in_the_slow_lane_make_a_message_suspected(delivery: Delivery, suspected: bool) -> None:
    """In the work queue a killer's neighbours are lost with it; in the slow lane it is alone."""
    assert delivery.lost_too_often is suspected


def test_the_body_of_a_suspected_message_is_not_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is refused by what its properties say, with the id in its body unread."""

    def read(*_: object) -> None:
        raise AssertionError("the body was read")

    monkeypatch.setattr("session_worker.requests.parse._id_in", read)
    monkeypatch.setattr("session_contracts.operation.PublishedOperation.read", read)
    parser = RequestParser(CREATE, Names(), max_body_bytes=1024, reply_to_allow=DEFAULT_REPLY_TO_ALLOW)
    refusal = parser.refuse_unread(lost(3))
    assert (refusal.code, refusal.correlation_id) == (ErrorCode.CRASHED_WORKER, "asked")


@pytest.mark.parametrize(
    ("content", "headers"),
    [
        (b'{"user_id": "ada", "request_id" : "00000000-0000-0000-0000-000000000007"}', {}),
        (b"{", {REQUEST_ID: "00000000-0000-0000-0000-000000000007"}),
    ],
)
def test_the_id_of_a_suspected_message_is_found_without_reading_it(
    content: bytes, headers: dict[str, str]
) -> None:
    assert identify_unread(parts.delivery(content, headers=headers, message_id=str(uuid4()))) == UUID(int=7)


def test_a_suspected_message_may_have_no_id() -> None:
    assert identify_unread(parts.delivery(b'{"request_id": 7}', message_id=str(uuid4()))) is None
