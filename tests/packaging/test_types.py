"""mypy reads our types where they are installed, from the wheels and from an editable installation alike."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.packaging.conftest import clean

if TYPE_CHECKING:
    from pathlib import Path

HANDLER = """
from session_client import SessionClient
from session_contracts import CreateSessionRequest, CreateSessionResponse
from session_worker import Context, Rejected


async def handle(request: CreateSessionRequest, context: Context) -> dict[str, str | None]:
    if context.attempt > 1:
        raise Rejected(request.user_id, code="once")
    return {"session": context.session_id}


async def ask(client: SessionClient) -> CreateSessionResponse:
    return await client.create_session(user_id="ada@example.com", title="Search of the east wing")


async def wrong(client: SessionClient, context: Context) -> str:
    await client.create_session(user=1)  # wrong
    return context.attempt  # wrong
"""
CALLS = """
from typing import assert_type

from pydantic import BaseModel

from session_client import RequestFailed, SessionClient, SyncSessionClient
from session_client.testing import Failure, FakeWorker
from session_contracts import (
    CLOSE_SESSION,
    CREATE_SESSION,
    GET_SESSION,
    BaseRequest,
    CloseSessionPayload,
    CreateSessionPayload,
    CreateSessionRequest,
    CreateSessionResponse,
    GetSessionPayload,
    Operation,
    Response,
    SessionClosedPayload,
    SessionCreatedPayload,
    SessionListPayload,
    SessionPayload,
)


class ExtendSession(BaseModel):
    minutes: int


class SessionExtended(BaseModel):
    until: str


ID = "ts_251130_a"
EXTEND = Operation("extend_session", ExtendSession, SessionExtended)
assert_type(EXTEND, Operation[ExtendSession, SessionExtended])


async def inferred(client: SessionClient) -> None:
    extended = await client.call(EXTEND, ExtendSession(minutes=5), user_id="ada", session_id=ID)
    assert_type(extended.payload, SessionExtended)
    response: Response[SessionExtended] = extended
    print(response.error)
    closed = await client.call(CLOSE_SESSION, CloseSessionPayload(session_id=ID), user_id="ada")
    assert_type(closed.payload, SessionClosedPayload)
    assert_type((await client.get_session(ID, user_id="ada")).payload, SessionPayload)
    assert_type((await client.list_sessions(user_id="ada", limit=5)).payload, SessionListPayload)
    assert_type((await client.close_session(ID, user_id="ada")).payload, SessionClosedPayload)
    assert_type(await client.create_session(user_id="ada"), CreateSessionResponse)
    creating = CreateSessionRequest(user_id="ada", payload=CreateSessionPayload())
    assert_type(await client.request(creating), CreateSessionResponse)
    request = EXTEND.request_model(user_id="ada", operation=EXTEND.name, payload=ExtendSession(minutes=5))
    assert_type((await client.request(request, EXTEND)).payload, SessionExtended)


def inferred_by_the_other_client(client: SyncSessionClient) -> str:
    try:
        return client.call(EXTEND, ExtendSession(minutes=5), user_id="ada").payload.until
    except RequestFailed as failed:
        return failed.code or "no code"


async def later(request: BaseRequest[ExtendSession]) -> SessionExtended:
    return SessionExtended(until=str(request.payload.minutes))


async def in_a_test() -> None:
    worker = FakeWorker()
    worker.answer(EXTEND, SessionExtended(until="later"), Failure(), later)
    worker.answer(EXTEND, lambda request: SessionExtended(until=str(request.payload.minutes)))
    worker.answer(CREATE_SESSION, SessionCreatedPayload(session_id=ID, created_at="now"))
    assert_type(worker.client(), SessionClient)
    assert_type(worker.sync_client(), SyncSessionClient)


async def wrong(client: SessionClient, blocking: SyncSessionClient, worker: FakeWorker) -> None:
    await client.call(EXTEND, GetSessionPayload(session_id=ID), user_id="ada")  # wrong
    await client.call(GET_SESSION, ExtendSession(minutes=5), user_id="ada")  # wrong
    await client.call(EXTEND, {"minutes": 5}, user_id="ada")  # wrong
    await client.call(EXTEND, ExtendSession(minutes=5))  # wrong
    extended = await client.call(EXTEND, ExtendSession(minutes=5), user_id="ada")
    print(extended.payload.minutes)  # wrong
    count: int = blocking.get_session(ID, user_id="ada").payload.title  # wrong
    request = EXTEND.request_model(user_id="ada", operation=EXTEND.name, payload=ExtendSession(minutes=5))
    await client.request(request)  # wrong
    await client.request(request, GET_SESSION)  # wrong
    worker.answer(EXTEND, CreateSessionPayload())  # wrong
    worker.answer(EXTEND, lambda request: SessionExtended(until=request.payload.hours))  # wrong
"""

APPS = """
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import assert_type

from pydantic import BaseModel

from session_contracts import BaseRequest, CreateSessionRequest, Operation
from session_worker import App, Context, Operations, Rejected, RetryLater


class ExtendSession(BaseModel):
    minutes: int


class SessionExtended(BaseModel):
    until: str


class Shop:
    name = "shop"


EXTEND = Operation("extend_session", ExtendSession, SessionExtended)
SHORTEN = Operation("shorten_session", ExtendSession, SessionExtended)


@asynccontextmanager
async def resources() -> AsyncIterator[Shop]:
    yield Shop()


app = App(lifespan=resources)
assert_type(app, App[Shop])
assert_type(App(), App[None])
others = Operations[Shop]()


@app.on_create_session
async def check(request: CreateSessionRequest, context: Context[Shop]) -> dict[str, object] | None:
    return {"shop": context.resources.name, "session": context.session_id}


@app.operation(EXTEND, timeout=10, max_attempts=3, concurrency=8)
async def extend(request: BaseRequest[ExtendSession], context: Context[Shop]) -> SessionExtended:
    assert_type(request.payload, ExtendSession)
    if request.payload.minutes > 60:
        raise Rejected("too long", code="limit")
    if context.attempt == 1:
        raise RetryLater(after=60)
    return SessionExtended(until=context.resources.name)


@others.operation(SHORTEN, effects="none", needs_session=True)
def shorten(request: BaseRequest[ExtendSession], context: Context[Shop]) -> SessionExtended:
    return SessionExtended(until="now")


app.include(others)


class Extending:
    async def __call__(self, request: BaseRequest[ExtendSession], context: Context[Shop]) -> SessionExtended:
        return SessionExtended(until="later")


app.operation(EXTEND)(Extending())


async def other_payload(request: BaseRequest[SessionExtended], context: Context[Shop]) -> SessionExtended:
    return SessionExtended(until="now")


async def other_result(request: BaseRequest[ExtendSession], context: Context[Shop]) -> ExtendSession:
    return request.payload


async def other_resources(request: BaseRequest[ExtendSession], context: Context[int]) -> SessionExtended:
    return SessionExtended(until=str(context.resources))


async def wrong(context: Context[Shop]) -> None:
    app.operation(EXTEND)(other_payload)  # wrong
    app.operation(EXTEND)(other_result)  # wrong
    app.operation(EXTEND)(other_resources)  # wrong
    app.operation(EXTEND, effects="some")  # wrong
    app.operation("extend_session")  # wrong
    app.on_create_session(extend)  # wrong
    App(lifespan=Shop)  # wrong
    context.resources.price  # wrong
    RetryLater("soon")  # wrong
    Operation("extend", int, SessionExtended)  # wrong
"""


@pytest.fixture(params=["wheels", "editable"])
def interpreter(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue("python")) if request.param == "wheels" else sys.executable


@pytest.mark.parametrize("program", [HANDLER, CALLS, APPS], ids=["handler", "calls", "apps"])
def test_mypy_finds_the_mistakes_in_a_program_and_no_others(
    interpreter: str, program: str, tmp_path: Path
) -> None:
    """One on each line that says so. pyright, tried by hand, finds the same."""
    (tmp_path / "program.py").write_text(program)
    command = [sys.executable, "-m", "mypy", "--strict", "--python-executable", interpreter, "program.py"]
    ran = subprocess.run(command, cwd=tmp_path, env=clean(), capture_output=True, text=True, check=False)

    found = [int(line) for line in re.findall(r"^program\.py:(\d+): error: ", ran.stdout, re.MULTILINE)]
    wrong = [number for number, line in enumerate(program.splitlines(), 1) if line.endswith("# wrong")]
    assert found == wrong, ran.stdout + ran.stderr
