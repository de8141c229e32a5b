"""What breaks a link or a publish.

The many ways in which a connection breaks (errors of three libraries, and a bare CancelledError that nobody
asked for) leave this file as one: ``LinkLostError``.
"""

from __future__ import annotations

import asyncio
import re
from contextlib import contextmanager
from typing import TYPE_CHECKING

from aiormq.exceptions import AMQPError, DeliveryError, PublishError
from pamqp.exceptions import PAMQPException

from session_client.net.objections import Kind, Objection, objection
from session_client.net.trouble import why_lost

if TYPE_CHECKING:
    from collections.abc import Iterator

    from session_contracts import Names


class LinkLostError(Exception):
    """The link is gone or could not be built; whether a publish under way arrived is unknown."""


class NotRoutedError(Exception):
    """The broker has no place for this message. It was not kept."""


class NotAcceptedError(Exception):
    """The broker did not take this message now (basic.nack), for example because the queue is full."""


class UnconfirmedError(Exception):
    """The broker has not said in time whether it took the message."""


BROKEN = (AMQPError, PAMQPException, OSError, EOFError, RuntimeError, StopAsyncIteration)


@contextmanager
def guard() -> Iterator[None]:
    """Turn every way in which a connection breaks into ``LinkLostError``."""
    try:
        yield
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        # Nobody cancelled us: the library passes on the end of its own reader this way.
        raise LinkLostError("the connection was lost") from error
    except BROKEN as error:
        raise LinkLostError(reason(error)) from error


def reason(error: BaseException | None) -> str:
    """Why the link is lost, in one sentence."""
    told = _objection(error)
    return told.sentence if told else why_lost(error)


def _objection(error: BaseException | None) -> Objection | None:
    return objection(str(error), queue="configure or read", exchange="write")


def is_about_a_request(error: BaseException | None) -> bool:
    """Whether the broker closed the channel because of a request that was published; its caller is told."""
    told = _objection(error)
    return told is not None and told.kind in {Kind.MISSING, Kind.PERMISSION, Kind.TOO_LARGE}


def refusal(error: BaseException | None, body: bytes, names: Names) -> Exception:
    """What the end of a publish, or of its channel, means for the request with this body."""
    remedy = "start a worker, apply its topology, or correct the prefix"
    match error:
        case PublishError():
            return NotRoutedError(
                f"no queue is bound to exchange {names.exchange!r} for {names.routing_key!r}; {remedy}"
            )
        case DeliveryError():
            return NotAcceptedError("the broker does not accept the request, its queue may be full")
    told = _objection(error)
    match told and told.kind:
        case Kind.MISSING:
            return NotRoutedError(f"there is no exchange {names.exchange!r}; {remedy}")
        case Kind.PERMISSION:
            return NotRoutedError(reason(error))
        case Kind.TOO_LARGE if (most := _most_bytes(error)) and len(body) > most:
            return NotRoutedError(
                f"it has {len(body)} bytes, and the broker's max_message_size is {most}; put less into it"
            )
    return LinkLostError(reason(error))


def _most_bytes(error: BaseException | None) -> int:
    """The limit of which the broker speaks. All who publish on a channel hear of the one message over it."""
    found = re.search(r"message size \d+ is larger than .*max size (\d+)", str(error))
    return int(found[1]) if found else 0
