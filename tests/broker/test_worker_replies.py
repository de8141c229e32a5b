"""Replies to hostile, mistaken or departed addresses harm neither the worker nor other requesters."""

from __future__ import annotations

import asyncio
import base64
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from session_contracts import RequestStatus
from tests.support.lab import answer, code_of, request
from tests.support.tcp_proxy import TcpProxy

if TYPE_CHECKING:
    from tests.support.lab import Lab
    from tests.support.requester import Requester

OWN_QUEUES = [
    "session.create",
    "session.create.retry.1s",
    "session.create.dead",
    "session.create.undelivered",
    "session.create.anything",
]
MALFORMED = [
    "amq.rabbitmq.reply-to.",
    "amq.rabbitmq.reply-to.reply",
    "amq.rabbitmq.reply-to.g2dkABByZXBseUA5NDU4.short==",
    "amq.rabbitmq.reply-to-callback",
]


def undecodable_address() -> str:
    """Well-formed, but its pid does not decode: the broker closes the connection that sends there."""
    pid, key = base64.b64encode(b"\x83" * 33).decode(), base64.b64encode(uuid4().bytes).decode()
    return f"amq.rabbitmq.reply-to.{pid}.{key}"


def assert_alive(requester: Requester) -> None:
    assert code_of(requester.ask(request())) is None


@pytest.mark.parametrize("reply_to", [*OWN_QUEUES, "orders.work", *MALFORMED, "x" * 255])
def test_a_forbidden_reply_to_is_answered_on_the_default_queue(served: Lab, reply_to: str) -> None:
    """Naming the setting; nothing is claimed, nothing arrives at the forbidden queue."""
    request_id = str(uuid4())
    with served.requester() as requester:
        requester.send(request(request_id), reply_to=reply_to, correlation_id="mine")
    [reply] = served.take("session.replies")
    [copy] = served.take("session.create.dead")
    assert code_of(reply) == copy.headers["x-error-code"] == "reply_to_forbidden"
    assert reply.properties.correlation_id == "mine"
    assert "SESSION_WORKER_REPLY_TO_ALLOW" in answer(reply)["error"]
    assert answer(reply)["request_id"] == request_id
    served.quiet()
    assert request_id not in served.runs()


def test_addresses_that_kill_a_connection_take_nobody_else_along(served: Lab) -> None:
    """The link stays up, direct and plain replies that were in flight arrive, the outcome is recorded."""
    [worker] = served.workers
    links = sum(line["event"] == "link lost" for line in worker.logs)
    poisoned = [str(uuid4()) for _ in range(3)]
    with (
        served.requester() as plain,
        served.requester(replies_to="amq.rabbitmq.reply-to") as direct,
    ):
        for request_id in poisoned:
            plain.send(request(request_id), reply_to=undecodable_address())
            for requester in (plain, direct):
                for _ in range(20):
                    requester.send(request())
        replies = plain.collect(60) + direct.collect(60)
    assert {code_of(reply) for reply in replies} == {None}
    for request_id in poisoned:
        served.noted(request_id, "undeliverable")
    served.quiet()
    assert sum(line["event"] == "link lost" for line in worker.logs) == links


def test_a_reply_queue_that_is_gone_is_noted_and_asking_again_gets_the_answer(served: Lab) -> None:
    request_id = str(uuid4())
    with served.requester() as requester:
        requester.send(request(request_id), reply_to="amq.gen-long-gone")
        served.noted(request_id, "undeliverable")
        assert served.entry(request_id).status is RequestStatus.COMPLETED
        reply = requester.ask(request(request_id))
    assert reply.headers == {"x-idempotent-replayed": True}
    served.noted(request_id, "sent")
    served.quiet()


def test_a_requesters_full_queue_holds_up_nobody(served: Lab) -> None:
    """It refuses by nack: three tries, noted as undeliverable, while others are served."""
    full = f"amq_full_{uuid4().hex}"
    first, refused = str(uuid4()), str(uuid4())
    with served.requester() as requester:
        arguments = {"x-max-length": 1, "x-overflow": "reject-publish"}
        requester.channel.queue_declare(full, exclusive=True, arguments=arguments)
        requester.send(request(first), reply_to=full)
        served.noted(first, "sent")
        requester.send(request(refused), reply_to=full)
        assert_alive(requester)
        served.noted(refused, "undeliverable")
        assert code_of(requester.ask(request(refused))) is None
    served.quiet()


async def test_a_direct_reply_waits_for_its_connection(lab: Lab) -> None:
    """The one for direct replies cannot be opened: the worker says so, serves the others meanwhile, and sends
    the answer as soon as it can."""
    async with TcpProxy(lab.url) as proxy:
        await asyncio.to_thread(lab.worker, amqp_url=proxy.url)
        await proxy.refuse()
        request_id = str(uuid4())
        with (
            await asyncio.to_thread(lab.requester, replies_to="amq.rabbitmq.reply-to") as direct,
            await asyncio.to_thread(lab.requester) as plain,
        ):
            await asyncio.to_thread(direct.send, request(request_id))
            assert code_of(await asyncio.to_thread(plain.ask, request())) is None
            await proxy.accept()
            (reply,) = await asyncio.to_thread(direct.collect, 1)
    assert code_of(reply) is None
    assert (await asyncio.to_thread(lab.entry, request_id)).reply != "undeliverable"
