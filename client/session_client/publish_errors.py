"""Why the broker did not take a request."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aio_pika.exceptions import DeliveryError, PublishError

from session_client.net.aiormq_errors import lost_by
from session_client.net.close_reasons import Kind, close_reason
from session_client.net.diagnosis import DiagnosedError

if TYPE_CHECKING:
    from session_contracts import Names


class NotRoutedError(DiagnosedError):
    """The broker has no place for this request. It was not kept."""


class NotAcceptedError(Exception):
    """The broker did not take this request now (basic.nack), for example because the queue is full."""


class UnconfirmedError(Exception):
    """The broker has not said in time whether it took the request."""


PERMISSIONS = {"queue": "configure or read", "exchange": "write"}
"""What a client needs; see ``close_reason``."""


def publish_error(error: BaseException | None, body: bytes, names: Names) -> Exception:
    """Say what the end of a publish, or of its channel, means for the request with this body."""
    remedy = "start a worker that serves it, apply its topology, or correct the prefix"
    match error:
        case PublishError():
            return NotRoutedError(
                f"no queue is bound to exchange {names.exchange!r} for {names.routing_key!r}", remedy
            )
        case DeliveryError():
            return NotAcceptedError("the broker does not accept the request, its queue may be full")
    reason = close_reason(str(error), **PERMISSIONS)
    match reason and reason.kind:
        case Kind.MISSING:
            return NotRoutedError(f"there is no exchange {names.exchange!r}", remedy)
        case Kind.PERMISSION if reason:
            return NotRoutedError(reason.diagnosis)
        # All who publish on a channel hear of the one message that is too large.
        case Kind.TOO_LARGE if reason and 0 < reason.max_bytes < len(body):
            return NotRoutedError(
                f"it has {len(body)} bytes, and the broker's max_message_size is {reason.max_bytes}",
                "put less into it",
            )
    return lost_by(error, **PERMISSIONS)
