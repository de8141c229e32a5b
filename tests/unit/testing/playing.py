"""The app that these tests play with: its handler does what its resources say."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, Field

from session_contracts import (
    BaseRequest,
    Operation,
)
from session_worker import App, Context

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Extend(BaseModel):
    minutes: int = Field(ge=1)


class Extended(BaseModel):
    minutes: int
    attempt: int


EXTEND = Operation("extend_session", Extend, Extended)
LOOK = Operation("look_up", Extend, Extended)
TWICE = Operation("twice", Extend, Extended)


class Script:
    """The resources of the app under test: what its handler is to do, call by call, and what it was given."""

    def __init__(self, *steps: Exception | None) -> None:
        self.steps = list(steps)
        self.always: Exception | None = None
        self.calls: list[Context[Script]] = []
        self.hang = False

    def next_step(self) -> None:
        error = self.steps.pop(0) if self.steps else self.always
        if error is not None:
            raise error


@asynccontextmanager
async def nothing_to_play() -> AsyncIterator[Script]:
    yield Script()


app = App(lifespan=nothing_to_play)


@app.operation(EXTEND)
async def extend(request: BaseRequest[Extend], context: Context[Script]) -> Extended:
    context.resources.calls.append(context)
    if context.resources.hang:
        await asyncio.Event().wait()
    context.resources.next_step()
    return Extended(minutes=request.payload.minutes, attempt=context.attempt)


@app.operation(LOOK, effects="none")
def look(request: BaseRequest[Extend], context: Context[Script]) -> Extended:
    context.resources.calls.append(context)
    context.resources.next_step()
    return Extended(minutes=request.payload.minutes, attempt=context.attempt)


def an_extension(**fields: Any) -> BaseRequest[Extend]:
    return EXTEND.request_model(
        **{"user_id": "ada", "operation": "extend_session", "payload": Extend(minutes=5)} | fields
    )


FIVE = Extend(minutes=5)
THREE_CALLS: list[Exception | None] = [ValueError("no connection")] * 3
"""One failed attempt: its call, and the two immediate retries."""
