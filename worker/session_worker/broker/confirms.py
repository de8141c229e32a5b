"""Publish on one channel, and wait for the confirms. Messages that are ready at the same time share one
write."""

from __future__ import annotations

import itertools
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aiormq.exceptions import ConnectionClosed

from session_client.net.errors import LinkLostError
from session_client.net.failures import why_lost
from session_worker.broker import frames
from session_worker.broker.connection import FrameChannel
from session_worker.messages.errors import (
    NackedError,
    UnconfirmedError,
    UnroutableError,
    UnsendableError,
)
from session_worker.messages.identifiers import new_message_id

if TYPE_CHECKING:
    import asyncio

    from pamqp import commands as spec

    from session_worker.messages.message import Message

CONFIRM_SECONDS = 10.0
UNSENT_BYTES = 1_048_576


class ChannelLostError(Exception):
    """The channel is gone. ``over_a_message``: the broker closed it because of something that was sent."""

    def __init__(self, reason: str, *, over_a_message: bool) -> None:
        super().__init__(reason)
        self.over_a_message = over_a_message


@dataclass(slots=True)
class _Pending:
    message_id: str
    confirmed: asyncio.Future[None]
    heard: int
    age: float = 0.0
    returned: str | None = None


class ConfirmChannel(FrameChannel):
    """A channel in confirm mode. It knows which messages are unconfirmed."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._pending: dict[int, _Pending] = {}
        self._returnable: dict[str, _Pending] = {}
        self._outbox: list[bytes] = []
        self._tag = 0
        self._returning: str | None = None
        self._gone: ChannelLostError | None = None
        self.closing.add_done_callback(self._on_gone)

    @property
    def usable(self) -> bool:
        return self._gone is None and not self.parent.lost.done()

    def send(self, message: Message) -> asyncio.Future[None]:
        """Send soon, together with all that is sent in this turn of the event loop.

        The future is done when the message is confirmed, and raises PublishError or ChannelLostError if it is
        not.

        Raises:
            ChannelLostError: the channel is gone already.
            UnsendableError: the message cannot be encoded.
        """
        if self._gone is not None:
            raise ChannelLostError(str(self._gone), over_a_message=False)
        message_id = new_message_id()
        data = self._encode(message, message_id)
        self._tag += 1
        pending = _Pending(message_id, self.loop.create_future(), self.parent.heard)
        self._pending[self._tag] = pending
        if message.mandatory:
            self._returnable[message_id] = pending
        if not self._outbox:
            self.loop.call_soon(self._flush)
        self._outbox.append(data)
        return pending.confirmed

    def age_unconfirmed(self, seconds: float) -> None:
        """Add ``seconds`` to the age of unconfirmed messages, and give up those that are too old.

        The caller leaves out the time during which the broker is blocked. A broker that has sent nothing
        since the message went out may be away: the message then waits until the broker sends something, and
        counts as unconfirmed, or until the silence is so long that the connection counts as lost.
        """
        longest_silence = self.parent.longest_silence
        for pending in list(self._pending.values()):
            pending.age += seconds
            if pending.age <= CONFIRM_SECONDS or pending.confirmed.done():
                continue
            if longest_silence is None or self.parent.heard != pending.heard:
                pending.confirmed.set_exception(
                    UnconfirmedError(f"the broker did not confirm within {CONFIRM_SECONDS:g} s")
                )
            elif pending.age > longest_silence:
                silent = f"the broker has sent nothing for {pending.age:g} s, not even a heartbeat"
                self.parent.lose(silent)
                return self._lose(ChannelLostError(silent, over_a_message=False))
        return None

    def _encode(self, message: Message, message_id: str) -> bytes:
        message.properties.message_id = message_id
        try:
            return frames.publish(
                self.number,
                message.queue,
                message.properties,
                message.body,
                mandatory=message.mandatory,
                max_frame=self.parent.max_frame,
            )
        except (ValueError, TypeError, AttributeError, struct.error) as error:
            raise UnsendableError(f"the message cannot be encoded: {error}") from error

    def _flush(self) -> None:
        if self._gone is not None or not self._outbox:
            return
        if self.parent.unsent > UNSENT_BYTES:
            self.loop.call_later(0.01, self._flush)
            return
        data = b"".join(self._outbox)
        self._outbox.clear()
        try:
            self.parent.write(data)
        except LinkLostError as error:
            self._lose(ChannelLostError(str(error), over_a_message=False))

    # ------------------------------------------------------- what comes off the socket

    def feed(self, kind: int, payload: bytes) -> bool:
        """Take confirms and returned messages, and leave the rest to aiormq. A message that is returned is
        confirmed afterwards."""
        if kind != frames.METHOD:
            return self._feed_returned(kind, payload)
        if payload.startswith((frames.ACK, frames.NACK)):
            self._confirm(*frames.confirmation(payload), nack=payload.startswith(frames.NACK))
        elif payload.startswith(frames.RETURN):
            self._returning = frames.reason(payload)
        else:
            return False
        return True

    def _feed_returned(self, kind: int, payload: bytes) -> bool:
        if kind == frames.HEADER and self._returning is not None:
            message_id = frames.properties(payload).message_id or ""
            pending = self._returnable.pop(message_id, None)
            if pending is not None:
                pending.returned = f"there is no queue of that name ({self._returning})"
            self._returning = None
        return True

    def _confirm(self, last: int, multiple: bool, *, nack: bool) -> None:
        if multiple:
            tags = list(itertools.takewhile(lambda tag: tag <= last, self._pending))
        else:
            tags = [last] if last in self._pending else []
        for tag in tags:
            pending = self._pending.pop(tag)
            self._returnable.pop(pending.message_id, None)
            if pending.confirmed.done():
                continue
            if nack:
                pending.confirmed.set_exception(
                    NackedError("the queue did not take the message; it may be full")
                )
            elif pending.returned is not None:
                pending.confirmed.set_exception(UnroutableError(pending.returned))
            else:
                pending.confirmed.set_result(None)

    # ------------------------------------------------------------- what aiormq's reader calls

    async def _on_close_frame(self, frame: spec.Channel.Close) -> None:
        self._lose(ChannelLostError(f"{frame.reply_code} {frame.reply_text}", over_a_message=True))
        await super()._on_close_frame(frame)

    def _on_gone(self, closing: asyncio.Future[Any]) -> None:
        error = None if closing.cancelled() else closing.exception()
        # The plain class says that the broker shuts down, its subclasses that a client did something wrong.
        over_a_message = isinstance(error, ConnectionClosed) and type(error) is not ConnectionClosed
        reason = "the channel was closed" if error is None else why_lost(error)
        self._lose(ChannelLostError(reason, over_a_message=over_a_message))

    def _lose(self, lost: ChannelLostError) -> None:
        if self._gone is not None:
            return
        self._gone = lost
        self._outbox.clear()
        pending, self._pending = self._pending, {}
        self._returnable.clear()
        for one in pending.values():
            if not one.confirmed.done():
                one.confirmed.set_exception(lost)
                one.confirmed.exception()
