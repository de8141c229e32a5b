"""Copies of a delivery: one that comes back later, and one for the parking lot, which says why."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from session_contracts import amqp
from session_contracts.types import timestamp
from session_worker.messages.delivery import CUT_BYTES, Cut
from session_worker.messages.headers import TRACEPARENT, TRACESTATE
from session_worker.messages.identifiers import storable
from session_worker.messages.message import Message, Properties

if TYPE_CHECKING:
    from collections.abc import Mapping

    from session_worker.messages.delivery import Delivery
    from session_worker.requests.outcomes import Letter

MAX_TRACE = 512
"""Characters of a trace header that a copy takes along: https://www.w3.org/TR/trace-context asks no more."""


def copy_of(delivery: Delivery, queue: str, headers: dict[str, Any], *, cut: bool = False) -> Message:
    """Return a copy of the delivery for ``queue``; ``cut`` keeps no more than the beginning of a large body.

    Only what is listed here is taken over: no ``expiration``, ``user_id``, ``x-death`` or CC.
    """
    body = delivery.body
    known = delivery.cut
    if cut and known is None and len(body) > CUT_BYTES:
        known = Cut(len(body), hashlib.sha256(body).hexdigest())
    if known is not None:
        headers = headers | {amqp.BODY_BYTES: known.size, amqp.BODY_SHA256: known.sha256}
        body = body[:CUT_BYTES]
    kept: dict[str, Any] = {
        name: value
        for name in (TRACEPARENT, TRACESTATE)
        if isinstance(value := delivery.headers.get(name), str)
        and value.isascii()
        and len(value) <= MAX_TRACE
    }
    if delivery.redrives:
        kept[amqp.REDRIVE_COUNT] = delivery.redrives
    properties = Properties(
        content_type=delivery.content_type,
        correlation_id=delivery.correlation_id,
        reply_to=delivery.reply_to,
        type=delivery.type,
        persistent=True,
        headers=kept | headers,
    )
    return Message(queue, body, properties)


def explanation(delivery: Delivery, letter: Letter, worker_id: str) -> dict[str, Any]:
    """Return the headers that say why a copy is on the parking lot."""
    headers = {
        amqp.REQUEST_ID: None if letter.request_id is None else str(letter.request_id),
        amqp.ERROR_CODE: letter.code.value,
        amqp.EXCEPTION_TYPE: letter.exception_type,
        amqp.EXCEPTION_MESSAGE: storable(letter.message),
        amqp.EXCEPTION_STACKTRACE: letter.stacktrace,
        amqp.ORIGINAL_QUEUE: delivery.queue,
        amqp.FAILED_AT: timestamp(datetime.now(UTC)),
        amqp.ATTEMPTS: letter.attempts,
        amqp.FIRST_SEEN_AT: None if letter.first_seen_at is None else timestamp(letter.first_seen_at),
        amqp.WORKER_ID: worker_id,
    }
    return {name: value for name, value in headers.items() if value is not None}


def shortened(headers: Mapping[str, Any], excess: int) -> dict[str, Any]:
    """Return the headers without ``excess`` bytes of the stack trace's beginning, for its end says most, and
    if that is not enough, of the message's end."""
    trace = str(headers.get(amqp.EXCEPTION_STACKTRACE, "")).encode()
    message = str(headers.get(amqp.EXCEPTION_MESSAGE, "")).encode()
    rest = max(excess - len(trace), 0)
    return {
        **headers,
        amqp.EXCEPTION_STACKTRACE: trace[excess:].decode(errors="ignore"),
        amqp.EXCEPTION_MESSAGE: message[: max(len(message) - rest, 0)].decode(errors="ignore"),
    }
