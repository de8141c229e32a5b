"""A worker that halts some requests at one step each, until it is told to go on.

    python -m tests.faults.halting_worker --folder F

A request whose id begins with the number of a step in ``STEPS`` halts there: the file of the step's name
appears in the folder, and the request goes on when the file ``go`` does.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from session_worker.broker.publisher import Publisher
from session_worker.ledger.postgresql.ledger import PostgreSQLLedger
from session_worker.ledger.sqlite.ledger import SQLiteLedger
from session_worker.operations import loading
from session_worker.runtime import process
from session_worker.settings import load
from tests.faults.preceded import Preceded

if TYPE_CHECKING:
    from session_worker.messages.message import Message
    from session_worker.operations.handler import Context

STEPS = ("before-claim", "in-handler", "before-commit", "before-publish", "before-ack")


def halting_id(step: str, request_id: str) -> str:
    """The request id, so changed that the request halts at the step."""
    return f"{STEPS.index(step):08x}{request_id[8:]}"


class Halts:
    """Halts whom it concerns."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def at(self, step: str, request_id: object) -> None:
        if str(request_id).startswith(f"{STEPS.index(step):08x}"):
            (self._folder / step).touch()
            while not (self._folder / "go").exists():
                await asyncio.sleep(0.02)


def wrap(halts: Halts) -> None:
    """Put the halts around the product."""
    for ledger in (SQLiteLedger, PostgreSQLLedger):
        _before(ledger, "claim", lambda step: halts.at("before-claim", step.request_id))
        _before(ledger, "finish", lambda step: halts.at("before-commit", step.request_id))
    publish, find = Publisher.publish, loading.load

    async def halting_publish(self: Publisher, message: Message) -> None:
        await halts.at("before-publish", message.properties.correlation_id)
        await publish(self, message)
        await halts.at("before-ack", message.properties.correlation_id)

    async def halt(context: Context[Any]) -> None:
        await halts.at("in-handler", context.request_id)

    setattr(Publisher, "publish", halting_publish)  # noqa: B010
    loading.load = lambda app=None, hook=None: Preceded(find(app, hook), halt)


def _before(owner: type, name: str, halt: Any) -> None:
    original = getattr(owner, name)

    async def wrapped(self: Any, step: Any) -> Any:
        await halt(step)
        return await original(self, step)

    setattr(owner, name, wrapped)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, required=True)
    wrap(Halts(parser.parse_args().folder))
    return process.run(load())


if __name__ == "__main__":
    sys.exit(main())
