"""Consume one queue: hand over each delivery as it comes in, and acknowledge in bulk what is done."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from session_client.net.aiormq_errors import broker_errors
from session_client.net.errors import LinkLostError
from session_contracts.amqp import BODY_BYTES, BODY_SHA256
from session_worker.broker import frames
from session_worker.broker.connection import SETUP_SECONDS, FrameChannel
from session_worker.messages.delivery import CUT_BYTES, NO_HEADERS, Cut, Delivery, Lane, newest_death

if TYPE_CHECKING:
    from collections.abc import Callable


class Consumer(FrameChannel):
    """A channel that consumes one queue and hands each delivery over at once, in order."""

    lane: Lane
    queue: str
    max_body_bytes: int
    deliver: Callable[[Delivery], None]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._open: dict[int, None] = {}  # in the order they came, which is that of their numbers
        self._done: set[int] = set()
        self._flushing = False
        self._consumer_tag = ""
        self._incoming: _Incoming | None = None

    @property
    def valid(self) -> bool:
        return not self.parent.lost.done() and not self.is_closed

    async def prepare(
        self,
        queue: str,
        deliver: Callable[[Delivery], None],
        *,
        prefetch: int,
        max_body_bytes: int,
        lane: Lane = Lane.WORK,
    ) -> None:
        """Get ready to consume ``queue`` from ``resume`` on.

        Args:
            deliver: gets each delivery, and must not block.
            prefetch: how many deliveries may be unacknowledged.
            max_body_bytes: of a larger body only the beginning is kept.
            lane: what deliveries are marked with.

        Raises:
            LinkLostError: the connection is gone.
        """
        self.queue, self.deliver, self.max_body_bytes, self.lane = queue, deliver, max_body_bytes, lane
        self.on_consumer_cancel_callbacks.add(self._on_cancelled)
        with broker_errors():
            await self.basic_qos(prefetch_count=prefetch, timeout=SETUP_SECONDS)

    async def resume(self) -> None:
        """Consume. Each time it gets a new consumer tag: the broker closes the connection if a quorum queue
        still has unacknowledged messages of a consumer with the same tag.

        Raises:
            LinkLostError: the queue is missing, consuming is forbidden, or the connection is gone.
        """
        with broker_errors():
            consuming = await self.basic_consume(self.queue, _unused, timeout=SETUP_SECONDS)
        self._consumer_tag = consuming.consumer_tag or ""

    async def pause(self) -> None:
        """Cancel the consumer. No delivery comes after this returns; those that came before can be
        settled."""
        with broker_errors():
            await self.basic_cancel(self._consumer_tag, timeout=SETUP_SECONDS)

    # ------------------------------------------------------------------------- settling

    def ack(self, tag: int) -> None:
        """Acknowledge soon, together with all that is done in this turn of the event loop."""
        self._done.add(tag)
        if not self._flushing:
            self._flushing = True
            self.loop.call_soon(self.flush)

    def requeue(self, tag: int) -> None:
        del self._open[tag]
        self._write(frames.requeue(self.number, tag))

    def flush(self) -> None:
        """Send the acks: one frame for the unbroken run from the oldest delivery on, one for each other."""
        self._flushing = False
        done, self._done = self._done, set()
        for tag in done:
            del self._open[tag]
        oldest = next(iter(self._open), None)
        run = [tag for tag in done if oldest is None or tag < oldest]
        acks = [frames.ack(self.number, max(run), multiple=True)] if run else []
        acks.extend(frames.ack(self.number, tag, multiple=False) for tag in done.difference(run))
        if acks:
            self._write(b"".join(acks))

    def _write(self, data: bytes) -> None:
        # If the channel is gone, the broker has taken the messages back already.
        with suppress(LinkLostError):
            if self.valid:
                self.parent.write(data)

    # ------------------------------------------------------- what comes off the socket

    def feed(self, kind: int, payload: bytes) -> bool:
        """Put deliveries together from their frames, and leave everything else to aiormq."""
        if kind == frames.METHOD:
            if not payload.startswith(frames.DELIVER):
                return False
            self._incoming = incoming = _Incoming(*frames.delivery(payload))
            self._open[incoming.tag] = None
            return True
        if self._incoming is None:
            return False
        if kind == frames.HEADER:
            self._incoming.begin(payload, self.max_body_bytes)
        else:
            self._incoming.add(payload)
        if self._incoming.missing <= 0:
            incoming, self._incoming = self._incoming, None
            self.deliver(self._delivery(incoming))
        return True

    def _delivery(self, incoming: _Incoming) -> Delivery:
        properties = frames.properties(incoming.header)
        headers = properties.headers or NO_HEADERS
        death = newest_death(headers) if self.lane is Lane.SLOW else NO_HEADERS
        return Delivery(
            body=incoming.body,
            cut=incoming.cut or _cut_before(headers, self.max_body_bytes),
            receipt=_Receipt(self, incoming.tag),
            lane=self.lane,
            queue=self.queue,
            tag=incoming.tag,
            redelivered=incoming.redelivered,
            illegible=properties.illegible,
            expired=death.get("reason") == "expired",
            correlation_id=properties.correlation_id,
            reply_to=properties.reply_to,
            message_id=properties.message_id,
            content_type=properties.content_type,
            content_encoding=properties.content_encoding,
            type=properties.type,
            # The broker removes the property when it moves an expired message to the slow lane.
            expiration=properties.expiration or death.get("original-expiration"),
            timestamp=properties.timestamp,
            headers=headers,
        )

    def _on_cancelled(self, _: object) -> None:
        self.parent.lose("the broker cancelled the consumer; was the queue deleted?")


@dataclass(slots=True)
class _Incoming:
    """A delivery of which some frames are still to come."""

    tag: int
    redelivered: bool
    header: bytes = b""
    parts: list[bytes] = field(default_factory=list)
    missing: int = 0
    size: int = 0
    digest: hashlib._Hash | None = None

    def begin(self, header: bytes, max_body_bytes: int) -> None:
        self.header = header
        self.size = self.missing = frames.body_size(header)
        if self.size > max_body_bytes:
            self.digest = hashlib.sha256()

    def add(self, part: bytes) -> None:
        """Keep the part, or only the beginning of a body that is too large: many may be in flight."""
        kept = part
        if self.digest is not None:
            self.digest.update(part)
            kept = part[: max(CUT_BYTES - (self.size - self.missing), 0)]
        self.missing -= len(part)
        if kept:
            self.parts.append(kept)

    @property
    def body(self) -> bytes:
        return self.parts[0] if len(self.parts) == 1 else b"".join(self.parts)

    @property
    def cut(self) -> Cut | None:
        return None if self.digest is None else Cut(self.size, self.digest.hexdigest())


class _Receipt:
    __slots__ = ("_channel", "_tag")

    def __init__(self, channel: Consumer, tag: int) -> None:
        self._channel = channel
        self._tag = tag

    @property
    def valid(self) -> bool:
        return self._channel.valid

    def ack(self) -> None:
        self._channel.ack(self._tag)

    def requeue(self) -> None:
        self._channel.requeue(self._tag)


async def _unused(_: object) -> None:
    """Never called: aiormq asks for a callback, but ``feed`` takes the deliveries before it."""


def _cut_before(headers: Any, max_body_bytes: int) -> Cut | None:
    """What the headers of a copy say about a body that a worker has cut (``settle.py``)."""
    size, sha256 = headers.get(BODY_BYTES), headers.get(BODY_SHA256)
    if isinstance(size, int) and size > max_body_bytes and isinstance(sha256, str):
        return Cut(size, sha256[:64])
    return None
