"""The ops port tells the truth: each check is red for a real cause, says why, and turns green after it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from uuid import uuid4

import pytest

from tests.support.lab import open_lab, request, send
from tests.support.tcp_proxy import TcpProxy
from tests.support.waiting import soon

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.external_rabbitmq import ExternalRabbitMQ
    from tests.support.lab import Lab
    from tests.support.ops import Ops
    from tests.support.servers import RabbitMQ

LISTENING = "0A"
BLOCKING = "tests.support.handlers.blocking:block"


@pytest.fixture
def lab(rabbitmq: RabbitMQ | ExternalRabbitMQ, postgresql_url: str, tmp_path: Path) -> Iterator[Lab]:
    """A lab on PostgreSQL, the ledger that goes away by itself."""
    with open_lab(rabbitmq, postgresql_url, tmp_path) as lab:
        yield lab


async def red(ops: Ops, *names: str) -> dict[str, str]:
    """Wait until just these checks are red; their reasons."""

    await asyncio.to_thread(soon, lambda: ops.red().keys() == set(names))
    return await asyncio.to_thread(ops.red)


async def green(ops: Ops) -> None:
    await asyncio.to_thread(soon, ops.ready)


async def test_a_worker_is_live_but_not_ready_until_it_consumes(lab: Lab, ops: Ops) -> None:
    """The broker is not there yet, as when a whole machine boots."""
    async with TcpProxy(lab.url) as proxy:
        await proxy.refuse()
        worker = await asyncio.to_thread(lab.worker, wait=False, amqp_url=proxy.url, ops_port=ops.port)
        await asyncio.to_thread(worker.wait_for, "no link to the broker")
        assert await asyncio.to_thread(ops.live)
        reasons = await red(ops, "broker", "consumer")
        assert f"127.0.0.1:{proxy.port}" in reasons["broker"]
        await proxy.accept()
        await green(ops)


async def test_a_lost_broker_is_named_until_it_is_back(lab: Lab, ops: Ops) -> None:
    async with TcpProxy(lab.url) as proxy:
        await asyncio.to_thread(lab.worker, amqp_url=proxy.url, ops_port=ops.port)
        await green(ops)
        assert await asyncio.to_thread(ops.metric, "session_worker_broker_connected") == 1
        await proxy.refuse()
        proxy.reset()
        reasons = await red(ops, "broker", "consumer")
        assert f":{urlsplit(lab.url).password}@" not in str(reasons)
        assert await asyncio.to_thread(ops.live)
        assert await asyncio.to_thread(ops.metric, "session_worker_broker_connected") == 0
        await proxy.accept()
        await green(ops)


async def test_a_ledger_that_is_away_is_named_although_nobody_asks_for_anything(lab: Lab, ops: Ops) -> None:
    async with TcpProxy(lab.ledger_url) as proxy:
        await asyncio.to_thread(lab.worker, ledger_url=proxy.url, ops_port=ops.port)
        await green(ops)
        await proxy.refuse()
        proxy.reset()
        reasons = await red(ops, "ledger", "consumer")
        assert reasons["consumer"] == "paused: the ledger is away"
        assert "PostgreSQL" in reasons["ledger"]
        assert await asyncio.to_thread(ops.metric, "session_worker_consumer_active") == 0
        await proxy.accept()
        await green(ops)


def test_a_copy_that_the_broker_does_not_take_is_told(lab: Lab, ops: Ops) -> None:
    lab.declare()
    lab.worker(declare="false", ops_port=ops.port)
    lab.broker.delete_queue(lab.vhost, "session.create.retry.1s")
    send(lab, 1, fails=1)
    soon(lambda: ops.red().keys() == {"copies"})
    lab.declare()
    soon(ops.ready)


def test_a_draining_worker_is_not_ready_and_answers_to_the_end(lab: Lab, ops: Ops) -> None:
    worker = lab.worker(ops_port=ops.port, shutdown_grace=30)
    send(lab, 3, gate=str(lab.gate))
    lab.running(3)
    worker.terminate()
    worker.wait_for("draining")
    assert ops.red()["shutdown"] == "the worker was told to stop"
    assert ops.live()
    assert ops.metric("session_worker_inflight") == 3
    lab.open_gate()
    assert worker.wait(15) == 0
    assert not ops.ready(), "nobody answers any more"


@pytest.mark.parametrize("processes", [1, 2])
def test_a_handler_that_blocks_the_loop_is_seen_from_outside(lab: Lab, ops: Ops, processes: int) -> None:
    """Neither live nor ready while the loop stands still; both when it turns again."""
    lab.worker(handler=BLOCKING, ops_port=ops.port, processes=processes)
    soon(ops.ready)
    assert ops.live()
    send(lab, 1, gate=str(lab.gate))
    soon(lambda: not ops.live())
    assert "the event loop has not turned for" in ops.red()["loop"]
    assert ops.metric("session_worker_broker_connected") == processes, "the last that was heard"
    lab.open_gate()
    soon(ops.live)
    soon(ops.ready)


@pytest.mark.parametrize("processes", [1, 2])
def test_a_stop_while_the_handler_is_being_loaded_is_quick_and_clean(
    lab: Lab, ops: Ops, processes: int
) -> None:
    """Nothing was begun: exit code 0 at once, however long the loading takes. Until then it is live."""
    loading = lab.folder / "loading"
    worker = lab.worker(
        wait=False,
        env={"TEST_LOADING": str(loading)},
        handler=BLOCKING,
        ops_port=ops.port,
        processes=processes,
    )
    soon(loading.exists)
    assert ops.live()
    assert ops.red() == {"loop": "starting"}
    worker.terminate()
    assert worker.wait(10) == 0


def test_a_taken_port_is_one_sentence_that_names_the_setting(lab: Lab, ops: Ops) -> None:
    lab.worker(ops_port=ops.port)
    for processes in (1, 2):
        worker = lab.worker(wait=False, ops_port=ops.port, processes=processes)
        assert worker.wait() == 1
        [sentence] = worker.output
        assert f"port {ops.port} of 127.0.0.1 is taken" in sentence
        assert "SESSION_WORKER_OPS_PORT" in sentence


def test_no_port_is_opened_unless_it_is_asked_for(lab: Lab) -> None:
    worker = lab.worker()
    with lab.requester() as requester:
        requester.ask(request(str(uuid4())))
    own = {path.readlink().name for path in Path(f"/proc/{worker.pid}/fd").iterdir()}
    sockets = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    assert own & {f"socket:[{fields[9]}]" for fields in sockets}, "its connections are seen"
    assert not own & {f"socket:[{fields[9]}]" for fields in sockets if fields[3] == LISTENING}
