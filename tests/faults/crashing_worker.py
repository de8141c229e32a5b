"""A worker that kills itself at one step of a delivery, by the calls from one room to another.

    python -m tests.faults.crashing_worker --at after-claim --count 17

SIGKILL comes when the ``count``-th request reaches the step. Settings come from the environment, as always.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from typing import TYPE_CHECKING, Any

from session_worker.broker.confirms import ConfirmChannel
from session_worker.broker.consumer import Consumer
from session_worker.broker.publisher import Publisher
from session_worker.ledger.postgresql.ledger import PostgreSQLLedger
from session_worker.ledger.sqlite.ledger import SQLiteLedger
from session_worker.messages.delivery import Delivery
from session_worker.operations import loading
from session_worker.runtime import process
from session_worker.settings import load
from tests.faults.preceded import Preceded

if TYPE_CHECKING:
    from collections.abc import Callable

    from session_worker.messages.message import Message

LEDGERS = (SQLiteLedger, PostgreSQLLedger)
PARSER_KILLER = b"kills the parser"


class Fuse:
    """Kills this process when it has burnt ``count`` times."""

    def __init__(self, count: int) -> None:
        self._left = count

    def burn(self, times: int = 1) -> None:
        self._left -= times
        if self._left <= 0:
            die()


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def around(owner: type, name: str, fuse: Fuse, *, after: bool, queues: str | None = None) -> None:
    """Burn the fuse before or after each call of a coroutine method (of messages to such queues)."""
    original = getattr(owner, name)

    async def wrapped(self: Any, *args: Any) -> Any:
        counts = queues is None or kind(args[0]) == queues
        if counts and not after:
            fuse.burn()
        result = await original(self, *args)
        if counts and after:
            fuse.burn()
        return result

    setattr(owner, name, wrapped)


def kind(message: Message) -> str:
    if not message.queue:
        return "probe"  # of the link, before anything is delivered
    if message.queue.endswith(".dead"):
        return "dead"
    return "retry" if ".retry." in message.queue else "reply"


def ledger_step(name: str, *, after: bool) -> Callable[[Fuse], None]:
    def wrap(fuse: Fuse) -> None:
        for ledger in LEDGERS:
            around(ledger, name, fuse, after=after)

    return wrap


def publish_step(queues: str, *, after: bool) -> Callable[[Fuse], None]:
    return lambda fuse: around(Publisher, "publish", fuse, after=after, queues=queues)


def sent_step(queues: str) -> Callable[[Fuse], None]:
    """The bytes are in the socket; no confirm was read."""

    def wrap(fuse: Fuse) -> None:
        send = ConfirmChannel.send

        def burning(self: ConfirmChannel, message: Message) -> Any:
            confirmed = send(self, message)
            if kind(message) == queues:
                # What is sent in this turn of the event loop is written at its end, and is in the socket
                # when the next one begins.
                self.loop.call_soon(lambda: self.loop.call_soon(fuse.burn))
            return confirmed

        ConfirmChannel.send = burning  # type: ignore[method-assign]

    return wrap


def in_handler(fuse: Fuse) -> None:
    real = loading.load

    async def burn(_: object) -> None:
        fuse.burn()

    loading.load = lambda app=None, hook=None: Preceded(real(app, hook), burn)


def before_ack(fuse: Fuse) -> None:
    ack = Consumer.ack

    def burning(self: Consumer, tag: int) -> None:
        fuse.burn()
        ack(self, tag)

    Consumer.ack = burning  # type: ignore[method-assign]


def after_ack(fuse: Fuse) -> None:
    """The acks are in the socket: as with ``sent_step``."""
    ack = Consumer.ack

    def burning(self: Consumer, tag: int) -> None:
        ack(self, tag)
        self.loop.call_soon(lambda: self.loop.call_soon(fuse.burn))

    Consumer.ack = burning  # type: ignore[method-assign]


def in_parser(_: Fuse) -> None:
    """Reading a marked body kills, however often and by whichever function it is read."""

    def document(self: Delivery) -> bytes:
        if PARSER_KILLER in self.body:
            die()
        return self.body

    Delivery.document = property(document)  # type: ignore[assignment, method-assign]


STEPS: dict[str, Callable[[Fuse], None]] = {
    "before-claim": ledger_step("claim", after=False),
    "after-claim": ledger_step("claim", after=True),
    "in-handler": in_handler,
    "before-commit": ledger_step("finish", after=False),
    "after-commit": ledger_step("finish", after=True),
    "before-publish": publish_step("reply", after=False),
    "sent": sent_step("reply"),
    "confirmed": publish_step("reply", after=True),
    "before-ack": before_ack,
    "after-ack": after_ack,
    "before-postpone": ledger_step("postpone", after=False),
    "after-postpone": ledger_step("postpone", after=True),
    "copy-sent": sent_step("retry"),
    "copy-confirmed": publish_step("retry", after=True),
    "before-park": publish_step("dead", after=False),
    "park-sent": sent_step("dead"),
    "park-confirmed": publish_step("dead", after=True),
    "park-noted": ledger_step("note_parked", after=True),
    "parser": in_parser,
}


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--at", choices=STEPS, required=True)
    parser.add_argument("--count", type=int, default=1)
    given = parser.parse_args()
    STEPS[given.at](Fuse(given.count))
    return process.run(load())


if __name__ == "__main__":
    sys.exit(main())
