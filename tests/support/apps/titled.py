"""An app whose handlers do what the title in a request says: the hook of ``create_session``, and an operation
of its own."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from pydantic import BaseModel, Field

from session_contracts import BaseRequest, Operation
from session_worker import App, Context
from tests.support.handlers import titled


class Titled(BaseModel):
    title: str | None = Field(None, max_length=200)


class Done(BaseModel):
    title: str | None
    attempt: int


ACT = Operation("act", Titled, Done)
app = App()
app.on_create_session(titled.handle)


@app.operation(ACT)
async def act(request: BaseRequest[Titled], context: Context) -> Done:
    asked: Any = SimpleNamespace(payload=request.payload)
    await titled.handle(cast("Any", asked), context)
    return Done(title=request.payload.title, attempt=context.attempt)
