"""What the errors of aiormq mean.

aiormq has many ways to say that a connection is gone. They leave this file as one: ``LinkLostError``.
"""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING

from aiormq.exceptions import AMQPError
from pamqp.exceptions import PAMQPException

from session_client.net.close_reasons import Kind, close_reason
from session_client.net.errors import ForbiddenError, LinkLostError
from session_client.net.failures import why_lost

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def broker_errors(*, queue: str = "read", exchange: str = "") -> Iterator[None]:
    """Turn every way in which aiormq says that a connection or channel is gone into ``LinkLostError``.

    One of them is a ``CancelledError`` that nobody asked for, another a ``StopAsyncIteration`` when the peer
    hangs up during the handshake. ``queue`` and ``exchange``: see ``close_reason``.
    """
    try:
        yield
    except LinkLostError:
        raise
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        raise LinkLostError("the connection was lost") from None
    except (AMQPError, PAMQPException, OSError, EOFError, RuntimeError, StopAsyncIteration) as error:
        raise lost_by(error, queue=queue, exchange=exchange) from error


def lost_by(error: BaseException | None, *, queue: str = "read", exchange: str = "") -> LinkLostError:
    """The meaning of ``error``, with which a channel or connection was closed."""
    reason = close_reason(str(error), queue=queue, exchange=exchange)
    if reason is None:
        return LinkLostError(why_lost(error))
    if reason.kind is Kind.PERMISSION:
        return ForbiddenError(reason.diagnosis)
    return LinkLostError(reason.diagnosis, kind=reason.kind)
