"""What serves one operation, put together: it reads, decides about and settles its deliveries."""

from __future__ import annotations

from typing import TYPE_CHECKING

from session_worker.requests.flow import NO_LIMIT, Flow
from session_worker.requests.parse import RequestParser
from session_worker.requests.response import ResponseBuilder
from session_worker.requests.settle import Settler
from session_worker.runtime.intake import Intake

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable
    from contextlib import AbstractAsyncContextManager

    from session_worker.ledger.protocol import Ledger
    from session_worker.messages.delivery import Delivery
    from session_worker.messages.message import Message
    from session_worker.runtime.served import Served
    from session_worker.settings import Settings
    from session_worker.telemetry.events import Emit
    from session_worker.telemetry.trace import Trace


def intake_of(
    served: Served,
    *,
    settings: Settings,
    worker_id: str,
    ledger: Ledger,
    publish: Callable[[Message], Awaitable[None]],
    emit: Emit,
    stop: asyncio.Event,
    begin: Callable[[Delivery], Trace],
    room: AbstractAsyncContextManager[object] = NO_LIMIT,
) -> Intake:
    """Return what takes the deliveries of ``served`` in. ``begin`` begins the trace of each; for ``room`` see
    ``Flow``."""
    flow = Flow(
        served.binding,
        served.limits,
        ledger=ledger,
        parser=RequestParser(
            served.binding,
            served.names,
            max_body_bytes=settings.max_body_bytes,
            reply_to_allow=settings.reply_to_allow,
        ),
        responses=ResponseBuilder(worker_id, served.binding),
        settings=settings,
        emit=emit,
        room=room,
    )
    settler = Settler(
        publish,
        ledger,
        served.binding,
        served.names,
        worker_id=worker_id,
        slowest_retry=served.limits.retry_delays[-1],
        emit=emit,
    )
    return Intake(served, flow, settler, ledger.availability, emit, stop, begin)
