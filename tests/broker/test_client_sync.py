"""The client for code that blocks, against a real broker: threads, forks, and the end of the program."""

from __future__ import annotations

import asyncio
import signal
import sys
import textwrap
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

from session_client import ClientClosed, SyncSessionClient
from session_contracts import Names
from tests.support.responder import responding
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.external_rabbitmq import ExternalRabbitMQ
    from tests.support.responder import Responder
    from tests.support.servers import RabbitMQ

USER = "ada@example.com"
STRICT = ("-X", "dev", "-W", "error", "-W", "ignore:This process:DeprecationWarning")
"""Whatever is left behind is told; but of a fork beside a thread, which is the point here."""
BEGINNING = """
import gc, logging, multiprocessing, os, sys, threading
from session_client import SyncSessionClient

logging.getLogger("asyncio").setLevel(logging.ERROR)  # not that a busy machine took its time
client = SyncSessionClient(sys.argv[1])

def ask(**options):
    return client.create_session(user_id="ada@example.com", **options).payload.session_id
"""


@pytest.fixture
async def responder(amqp_url: str) -> AsyncIterator[Responder]:
    async with responding(amqp_url) as responder:
        yield responder


@asynccontextmanager
async def program(text: str, amqp_url: str) -> AsyncIterator[asyncio.subprocess.Process]:
    code = BEGINNING + textwrap.dedent(text)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, *STRICT, "-c", code, amqp_url),
        stdin=asyncio.subprocess.PIPE,  # it waits for the end of this
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


async def outcome(process: asyncio.subprocess.Process) -> tuple[list[str], str, int | None]:
    """What it printed, in the order of the alphabet; its errors; its exit code."""
    async with asyncio.timeout(30):
        out, err = await process.communicate(b"")
    return sorted(out.decode().split()), err.decode(), process.returncode


async def test_threads_share_one_connection(
    amqp_url: str, vhost: str, rabbitmq: RabbitMQ | ExternalRabbitMQ, responder: Responder
) -> None:
    """Each gets its own answer, and none waits for another's."""
    client = SyncSessionClient(amqp_url)

    def ask() -> set[object]:
        return {client.create_session(user_id=USER).request_id for _ in range(10)}

    answered = await asyncio.gather(*(asyncio.to_thread(ask) for _ in range(8)))
    await eventually(lambda: rabbitmq.connections(vhost) == 2)  # the responder's is one of them
    responder.may_reply.clear()
    waiting = [asyncio.create_task(asyncio.to_thread(ask)) for _ in range(2)]
    await responder.received(82)
    responder.may_reply.set()
    await asyncio.gather(*waiting)
    await asyncio.to_thread(client.close)
    assert len(set().union(*answered)) == 80
    await eventually(lambda: rabbitmq.connections(vhost) == 1)


async def test_a_process_that_forked_after_a_call_and_its_child_both_go_on(
    amqp_url: str, vhost: str, rabbitmq: RabbitMQ | ExternalRabbitMQ, responder: Responder
) -> None:
    """Each over its own connection; when they end, both have said goodbye, and nothing is left or said."""
    code = """
    print(ask())
    child = os.fork()
    for _ in range(20):
        print(ask())
    sys.stdin.read()
    if child:
        assert os.waitpid(child, 0)[1] == 0
        print(ask())
    else:
        del client
        gc.collect()
    """
    async with program(code, amqp_url) as process:
        await responder.received(41)
        await eventually(lambda: rabbitmq.connections(vhost) == 3)
        out, err, code_of_exit = await outcome(process)
    assert (err, code_of_exit) == ("", 0)
    assert len(set(out)) == 42
    await eventually(lambda: rabbitmq.connections(vhost) == 1)
    assert set(rabbitmq.queue_depths(vhost)) == {Names().work}


async def test_children_of_a_process_that_only_made_the_client_each_connect_by_themselves(
    amqp_url: str, responder: Responder
) -> None:
    """As gunicorn does with --preload. The parent has no thread, so that nothing can go wrong in the fork."""
    code = """
    def child():
        print(*[ask() for _ in range(5)])

    fork = multiprocessing.get_context("fork")
    children = [fork.Process(target=child) for _ in range(3)]
    assert threading.active_count() == 1
    for each in children:
        each.start()
    for each in children:
        each.join(20)
    print(*[each.exitcode for each in children])
    """
    async with program(code, amqp_url) as process:
        out, err, code_of_exit = await outcome(process)
    assert (err, code_of_exit) == ("", 0)
    assert out[:3] == ["0", "0", "0"]
    assert len(set(out[3:])) == 15


async def test_a_program_that_never_closes_its_client_ends_and_leaves_nothing(
    amqp_url: str, vhost: str, rabbitmq: RabbitMQ | ExternalRabbitMQ, responder: Responder
) -> None:
    async with program("print(ask())", amqp_url) as process:
        out, err, code = await outcome(process)
    assert (len(out), err, code) == (1, "", 0)
    assert set(rabbitmq.queue_depths(vhost)) == {Names().work}


async def test_ctrl_c_ends_a_call_at_once_and_costs_the_client_nothing(
    amqp_url: str, responder: Responder
) -> None:
    """However long the call would have waited; the next one is answered."""
    responder.may_reply.clear()
    code = """
    try:
        ask(timeout=3600)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
    print(ask())
    """
    async with program(code, amqp_url) as process:
        await responder.received(1)
        process.send_signal(signal.SIGINT)
        await responder.received(2)
        responder.may_reply.set()
        out, err, code_of_exit = await outcome(process)
    assert (out[0], len(out), err, code_of_exit) == ("interrupted", 2, "", 0)


async def test_closing_ends_calls_of_other_threads(amqp_url: str, responder: Responder) -> None:
    responder.may_reply.clear()
    client = SyncSessionClient(amqp_url)
    calls = [asyncio.create_task(asyncio.to_thread(client.create_session, user_id=USER)) for _ in range(3)]
    await responder.received(3)
    async with asyncio.timeout(5):
        await asyncio.to_thread(client.close)
        ended = await asyncio.gather(*calls, return_exceptions=True)
    assert {type(each) for each in ended} == {ClientClosed}


async def test_a_call_outlives_a_restart_of_the_broker(own_rabbitmq: RabbitMQ) -> None:
    """It waits, is sent again with its id, and is answered over a new connection; so are later ones."""
    client = SyncSessionClient(own_rabbitmq.url)
    async with responding(own_rabbitmq.url) as responder:
        responder.may_reply.clear()
        call = asyncio.create_task(asyncio.to_thread(client.create_session, user_id=USER))
        await responder.received(1)
        first = str(responder.requests[0].headers["x-request-id"])
        await asyncio.to_thread(own_rabbitmq.stop_app)
    await asyncio.to_thread(own_rabbitmq.start_app)
    async with responding(own_rabbitmq.url) as responder:
        assert str((await call).request_id) == first
        await asyncio.to_thread(client.create_session, user_id=USER)
        await eventually(lambda: own_rabbitmq.connections() == 2)
    await asyncio.to_thread(client.close)


async def test_a_request_belongs_to_the_span_of_the_thread_that_asks(
    amqp_url: str, responder: Responder
) -> None:
    """Though it is sent from another one."""
    tracer = TracerProvider(shutdown_on_exit=False).get_tracer("test")

    def ask() -> str:
        with SyncSessionClient(amqp_url) as client, tracer.start_as_current_span("page") as span:
            client.create_session(user_id=USER)
        return trace.format_trace_id(span.get_span_context().trace_id)

    asked = await asyncio.to_thread(ask)
    assert asked in str(responder.requests[0].headers["traceparent"])
