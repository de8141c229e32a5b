"""An app as a user writes one: operations of its own, a plain function among them, and resources that they
share. A request's payload says what its handler does; all that happens is written down."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel

from session_contracts import BaseRequest, Operation
from session_worker.operations.app import App
from session_worker.operations.handler import Context  # noqa: TC001 - the app reads annotations

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Order(BaseModel):
    """`gate`: a file to wait for. `fails`: attempts that fail. `stubborn`: to go on when it is cancelled."""

    gate: str | None = None
    fails: int = 0
    stubborn: bool = False


class Receipt(BaseModel):
    """Who carried it out: the process, the thread, and with which resources."""

    pid: int
    thread: str
    shelf: str


class Shop:
    """What handlers share. A closed one cannot be used."""

    def __init__(self) -> None:
        self.closed = False

    @property
    def shelf(self) -> str:
        if self.closed:
            note("used after it was closed")
        return f"shelf of {os.getpid()}"


ORDER = Operation("order", Order, Receipt)
PACK = Operation("pack", Order, Receipt)
LOOK = Operation("look", Order, Receipt)


def note(what: str) -> None:
    """Write a line into the file that TEST_NOTES names."""
    file = os.open(os.environ["TEST_NOTES"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(file, f"{os.getpid()} {what}\n".encode())
    finally:
        os.close(file)


@asynccontextmanager
async def resources() -> AsyncIterator[Shop]:
    """TEST_LIFESPAN names a file that says what goes wrong: at the `start`, `midway`, at the `end`, or that
    it `hangs` there."""
    note("entered")
    if _wrong() == "start":
        raise ConnectionError("the stock cannot be reached")
    shop = Shop()
    async with asyncio.TaskGroup() as group:  # which only the task that made it may leave
        helper = group.create_task(_fail_when_told())
        yield shop
        helper.cancel()
    shop.closed = True
    note("left")
    if _wrong() == "end":
        raise RuntimeError("the till does not close")
    if _wrong() == "hangs":
        await asyncio.Event().wait()


def _wrong() -> str:
    named = os.environ.get("TEST_LIFESPAN")
    return Path(named).read_text() if named and Path(named).exists() else ""


async def _fail_when_told() -> None:
    while _wrong() != "midway":
        await asyncio.sleep(0.05)
    raise RuntimeError("the stock is gone")


app = App(lifespan=resources)


@app.operation(ORDER, concurrency=4)
async def order(request: BaseRequest[Order], context: Context[Shop]) -> Receipt:
    note(f"order {context.attempt}")
    asked = request.payload
    while asked.gate is not None and not Path(asked.gate).exists():
        try:
            await asyncio.sleep(0.02)
        except asyncio.CancelledError:
            if not asked.stubborn:
                raise
    if context.attempt <= asked.fails:
        raise RuntimeError("out of stock")
    return _receipt(context)


@app.operation(PACK, concurrency=2, timeout=2, retry_delays=(1, 600))
def pack(request: BaseRequest[Order], context: Context[Shop]) -> Receipt:
    note(f"pack {context.attempt}")
    while request.payload.gate is not None and not Path(request.payload.gate).exists():
        time.sleep(0.02)
    return _receipt(context)


@app.operation(LOOK, effects="none")
async def look(request: BaseRequest[Order], context: Context[Shop]) -> Receipt:
    return _receipt(context)


def _receipt(context: Context[Shop]) -> Receipt:
    return Receipt(pid=os.getpid(), thread=threading.current_thread().name, shelf=context.resources.shelf)
