"""What is done about an outcome: publish, wait for the confirm, acknowledge. In this order, here alone.

Every case ends in exactly one settlement. A delivery that can no longer be acknowledged is left alone: the
broker delivers it again, and the ledger knows what is left to do.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from typing import TYPE_CHECKING, Any

from session_client.net.errors import LinkLostError
from session_contracts import amqp
from session_worker.messages.delivery import NO_HEADERS
from session_worker.messages.errors import (
    NackedError,
    NotConnectedError,
    PublishError,
    TooLongError,
    UnconfirmedError,
    UnroutableError,
    UnsendableError,
)
from session_worker.messages.message import Message, Properties
from session_worker.requests.claimed import age
from session_worker.requests.copies import copy_of, explanation, shortened
from session_worker.requests.outcomes import (
    Answered,
    Busy,
    Completed,
    Expired,
    Failed,
    Interrupted,
    Refused,
    Rejected,
    Replayed,
    RetryLater,
)
from session_worker.requests.request import NIL_ID
from session_worker.telemetry.events import (
    CopyNotTaken,
    DeliveryLeft,
    ReplyConfirmed,
    ReplyUndeliverable,
    RequestFinished,
    RequestNotParked,
    RequestParked,
)
from session_worker.telemetry.trace import current_trace

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from uuid import UUID

    from session_worker.ledger.protocol import Ledger
    from session_worker.messages.delivery import Delivery
    from session_worker.operations.binding import Binding
    from session_worker.requests.outcomes import Letter, Outcome, Reply
    from session_worker.telemetry.events import Emit

REPLY_TRIES = 3
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0
"""Seconds between the tries of a copy: each pause is twice the one before."""
SPARE_BYTES = 512
"""What a dead letter that was too long for a frame leaves free, for headers that the broker may add."""


class Settler:
    """Settles deliveries of one operation.

    ``stuck`` counts the copies that the broker does not take at the moment. The worker is not ready while
    there are any.
    """

    def __init__(
        self,
        publish: Callable[[Message], Awaitable[None]],
        ledger: Ledger,
        binding: Binding,
        names: amqp.Names,
        *,
        worker_id: str,
        slowest_retry: int,
        emit: Emit,
    ) -> None:
        self._publish = publish
        self._ledger = ledger
        self._operation = binding.operation.name
        self._response_type = binding.operation.response_type
        self._goes_round = not binding.reads
        self._names = names
        self._worker_id = worker_id
        self._slowest = slowest_retry
        self._emit = emit
        self.stuck = 0

    async def settle(self, delivery: Delivery, outcome: Outcome) -> None:
        """Settle a delivery, unless its link is lost."""
        try:
            await self._settle(delivery, outcome)
        except LinkLostError as lost:
            self._emit(
                DeliveryLeft(*subject(outcome), type(outcome).__name__, str(lost), operation=self._operation)
            )

    async def _settle(self, delivery: Delivery, outcome: Outcome) -> None:
        if isinstance(outcome, Busy) and not self._goes_round:
            outcome = await self._wait(outcome)
        match outcome:
            case (
                Completed(reply=reply) | Answered(reply=reply) | Rejected(reply=reply) | Expired(reply=reply)
            ):
                await self._reply(delivery, outcome, reply)
            case RetryLater(request_id=request_id, delay=delay, attempt=attempt):
                await self._send_round(delivery, delay, request_id, attempt)
            case Busy(request_id=request_id, delay=delay, requeues=requeues):
                await self._send_round(delivery, delay, request_id, 0, {amqp.REQUEUE_COUNT: requeues})
            case Replayed(reply=reply, letter=letter, error_code=code):
                await self._reply(delivery, outcome, reply)
                self._emit(
                    RequestFinished(
                        reply.request_id, reply.attempt, "replayed", code, operation=self._operation
                    )
                )
                if letter is not None:
                    await self._park(delivery, outcome, letter)
            case Failed(reply=reply, letter=letter):
                await self._reply(delivery, outcome, reply)
                await self._park(delivery, outcome, letter)
            case Refused():
                await self._refuse(delivery, outcome)
            case Interrupted():
                delivery.receipt.requeue()
                self._tell_trace("nack", outcome)
                return
        delivery.receipt.ack()
        self._tell_trace("ack", outcome)

    async def _wait(self, busy: Busy) -> Interrupted:
        """Keep a read, which has no retry queues, for as long as it would go round; then it is requeued."""
        await asyncio.sleep(busy.delay)
        return Interrupted()

    async def _refuse(self, delivery: Delivery, refused: Refused) -> None:
        if refused.reply is not None:
            await self._reply(delivery, refused, refused.reply)
        letter = refused.letter
        if await self._park(delivery, refused, letter):
            self._emit(
                RequestFinished(
                    *subject(refused), "refused", letter.code, letter.message, operation=self._operation
                )
            )

    async def _send(self, delivery: Delivery, message: Message) -> None:
        """Publish, unless the delivery can no longer be acknowledged: then it comes again, and so would this.

        Every try asks anew, because the link may have been rebuilt since the one before.
        """
        if not delivery.receipt.valid:
            raise LinkLostError("the connection it came by was lost")
        with current_trace.get().sending(message):
            await self._publish(message)

    # ------------------------------------------------------------------------------------ replies

    async def _reply(self, delivery: Delivery, outcome: Outcome, reply: Reply) -> None:
        """Deliver the reply, or record that it cannot be delivered. Raises ``LinkLostError`` alone."""
        message = reply_message(reply, self._response_type)
        for tries in itertools.count(1):
            try:
                await self._send(delivery, message)
            except (NackedError, UnconfirmedError) as error:
                if tries == REPLY_TRIES:
                    return await self._undeliverable(outcome, reply, error)
                await asyncio.sleep(0.1 * 2**tries)
            except (UnroutableError, NotConnectedError, UnsendableError) as error:
                return await self._undeliverable(outcome, reply, error)
            else:
                break
        critical = None if reply.published is None else age(reply.published)
        self._emit(ReplyConfirmed(*subject(outcome), critical, operation=self._operation))
        if reply.request_id is not None and reply.token is not None and message.mandatory:
            self._ledger.note_sent(reply.request_id, reply.token)
        return None

    async def _undeliverable(self, outcome: Outcome, reply: Reply, error: PublishError) -> None:
        self._emit(
            ReplyUndeliverable(*subject(outcome), reply.reply_to, str(error), operation=self._operation)
        )
        if reply.request_id is not None and reply.token is not None:
            await self._ledger.note_undeliverable(reply.request_id, reply.token)

    # ------------------------------------------------------------------------------------- copies

    async def _send_round(
        self,
        delivery: Delivery,
        delay: int,
        request_id: UUID | None,
        attempt: int,
        headers: Mapping[str, Any] = NO_HEADERS,
    ) -> None:
        """Publish a copy that comes back after ``delay`` seconds; try until the broker takes it.

        The copy of a request without an id says so: otherwise its own ``message_id`` would be taken for one.
        """
        queue = self._names.retry(delay)
        message = copy_of(delivery, queue, {amqp.REQUEST_ID: str(request_id or NIL_ID), **headers})
        pause = 0.0
        try:
            while True:
                try:
                    return await self._send(delivery, message)
                except PublishError as error:
                    if not pause:
                        self.stuck += 1
                        self._emit(
                            CopyNotTaken(request_id, attempt, queue, str(error), operation=self._operation)
                        )
                pause = min(2 * pause, LONGEST_PAUSE) or FIRST_PAUSE
                await asyncio.sleep(pause)
        finally:
            self.stuck -= pause > 0

    async def _park(self, delivery: Delivery, outcome: Refused | Replayed | Failed, letter: Letter) -> bool:
        """Park a copy and note it. Return whether it is parked now.

        A full lot makes no other delivery wait: the copy goes round by the slowest retry queue, comes back as
        a duplicate and is parked then. A read has no retry queue: its copy is given up.
        """
        headers = explanation(delivery, letter, self._worker_id)
        refused = isinstance(outcome, Refused)
        token = None if outcome.reply is None else outcome.reply.token
        try:
            await self._send_letter(delivery, headers, cut=refused)
        except PublishError as error:
            self._emit(
                RequestNotParked(*subject(outcome), self._names.dead, str(error), operation=self._operation)
            )
            if not self._goes_round:
                return False
            # Its requester was told no, so it stays refused, even if the copy lacks what was wrong with it.
            headers = {amqp.REFUSED: letter.code.value} if refused else {}
            await self._send_round(delivery, self._slowest, letter.request_id, letter.attempts, headers)
            return False
        self._emit(RequestParked(*subject(outcome), letter.code, letter.message, operation=self._operation))
        if letter.request_id is not None and token is not None:
            await self._ledger.note_parked(letter.request_id, token)
        return True

    async def _send_letter(self, delivery: Delivery, headers: dict[str, Any], *, cut: bool) -> None:
        try:
            await self._send(delivery, copy_of(delivery, self._names.dead, headers, cut=cut))
        except TooLongError as error:
            shorter = shortened(headers, error.excess + SPARE_BYTES)
            await self._send(delivery, copy_of(delivery, self._names.dead, shorter, cut=cut))

    def _tell_trace(self, method: str, outcome: Outcome) -> None:
        trace = current_trace.get()
        trace.about(*subject(outcome), self._operation)
        trace.settled(method, type(outcome).__name__)


def subject(outcome: Outcome) -> tuple[UUID | None, int]:
    """Return the request that an outcome is about, and its attempt."""
    match outcome:
        case RetryLater(request_id=request_id, attempt=attempt):
            return request_id, attempt
        case Busy(request_id=request_id):
            return request_id, 0
        case Refused(letter=letter):
            return letter.request_id, 0
        case Interrupted():
            return None, 0
        case _:
            return outcome.reply.request_id, outcome.reply.attempt


def reply_message(reply: Reply, response_type: str) -> Message:
    """Return the message that carries a reply."""
    properties = Properties(
        content_type=amqp.CONTENT_TYPE,
        correlation_id=reply.correlation_id,
        type=response_type,
        timestamp=int(time.time()),
        persistent=True,
        headers={amqp.IDEMPOTENT_REPLAYED: True} if reply.replayed else None,
    )
    # Depending on its version, the broker reports every direct reply as unroutable, or none.
    return Message(
        reply.reply_to, reply.body, properties, mandatory=not amqp.is_direct_reply_to(reply.reply_to)
    )
